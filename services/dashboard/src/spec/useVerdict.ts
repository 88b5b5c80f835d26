/** Validates the spec on the server while it is edited. */

import { useEffect, useRef, useState } from "react";
import { ApiError } from "../api/client";
import { validate } from "../api/runs";
import type { Validation } from "../api/types";
import type { LineMark } from "../components/SpecText";
import { lineOf } from "./document";

export interface VerdictState {
  /** The last successful validation; null while the text has errors. */
  answer: Validation | null;
  error: ApiError | null;
  busy: boolean;
  marks: (text: string, problem: { detail: string; line: number } | null) => LineMark[];
}

const PAUSE = 250; // ms without a key

export function useVerdict(text: string | null): VerdictState {
  const [state, setState] = useState<{ answer: Validation | null; error: ApiError | null; of: string | null }>({
    answer: null,
    error: null,
    of: null,
  });
  const first = useRef(true);
  useEffect(() => {
    if (text === null) return undefined;
    const stop = new AbortController();
    const timer = setTimeout(
      () => {
        validate(text, stop.signal).then(
          (answer) => setState({ answer, error: null, of: text }),
          (error: unknown) => {
            if (error instanceof ApiError) setState({ answer: null, error, of: text });
          },
        );
      },
      first.current ? 0 : PAUSE,
    );
    first.current = false;
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text]);

  const current = text !== null && state.of === text;
  return {
    answer: text === null ? null : state.answer,
    error: text === null ? null : state.error,
    busy: text !== null && !current,
    marks: (shown, problem) => marksOf(shown, problem, text === null ? null : state),
  };
}

function marksOf(text: string, problem: { detail: string; line: number } | null, state: { answer: Validation | null; error: ApiError | null } | null): LineMark[] {
  if (problem) return [{ line: problem.line, tone: "bad", text: problem.detail }];
  const marks: LineMark[] = [];
  for (const warning of state?.answer?.warnings ?? []) {
    const line = warning.pointer ? lineOf(text, warning.pointer) : null;
    if (line !== null) marks.push({ line, tone: "warn", text: warning.detail });
  }
  const refused = state?.error?.problem;
  for (const item of refused ? (refused.errors ?? [refused]) : []) {
    const line = item.pointer ? lineOf(text, item.pointer) : null;
    if (line !== null) marks.push({ line, tone: "bad", text: item.detail });
  }
  return marks;
}
