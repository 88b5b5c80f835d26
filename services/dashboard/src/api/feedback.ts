/** Ground truth of predicted rows, and how good a model's versions are by it. */

import { useQuery } from "@tanstack/react-query";
import { ApiError, get, post, seg } from "./client";
import { predict, type PredictionAnswer } from "./models";
import { newId } from "./newId";
import type { DriftReport, FeedbackAnswer, Outcome } from "./types";

/** Items of one request. */
export const MOST_ITEMS = 1000;
const STORED_AFTER_MS = 400; // between two looks whether a prediction is stored
const TRIES = 75;

/** Drift and live figures of the version that serves; null where none does. */
export const useDrift = (name: string) =>
  useQuery({
    queryKey: ["drift", name],
    queryFn: async ({ signal }) => {
      try {
        return await get<DriftReport>(`/api/v1/models/${seg(name)}/drift`, undefined, signal);
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) return null;
        throw error;
      }
    },
    refetchInterval: 5000,
  });

export const postFeedback = (name: string, items: readonly Outcome[]): Promise<FeedbackAnswer> =>
  post<FeedbackAnswer>(`/api/v1/models/${seg(name)}/feedback`, { items });

export interface Recorded {
  answer: PredictionAnswer;
  feedback: FeedbackAnswer;
}

/** Predict a row under an id of its own, and post its truth as soon as the prediction is stored. */
export async function recordTruth(name: string, version: number | null, row: unknown, truths: Readonly<Record<string, Outcome["truth"]>>): Promise<Recorded> {
  const id = `page-${newId()}`;
  const answer = await predict(name, version, [row], undefined, null, id);
  const items = Object.entries(truths).map(([output, truth]): Outcome => ({ id, row: 0, output, truth }));
  for (let tries = 1; ; tries += 1) {
    const feedback = await postFeedback(name, items);
    if (feedback.unknown.length === 0 || tries >= TRIES) return { answer, feedback };
    await new Promise((resolve) => setTimeout(resolve, STORED_AFTER_MS));
  }
}

export interface Sent {
  stored: number;
  repeated: number;
  unknown: string[];
}

/** Post the truths of a table, piece by piece. Throws ApiError that names the table's row; what was posted stays. */
export async function postTable(name: string, items: readonly Outcome[], rows: readonly number[], onSent: (sent: number) => void): Promise<Sent> {
  const total: Sent = { stored: 0, repeated: 0, unknown: [] };
  for (let from = 0; from < items.length; from += MOST_ITEMS) {
    try {
      const { stored, repeated, unknown } = await postFeedback(name, items.slice(from, from + MOST_ITEMS));
      total.stored += stored;
      total.repeated += repeated;
      total.unknown.push(...unknown);
    } catch (error) {
      throw error instanceof ApiError ? new ApiError(withRows(error.problem, rows.slice(from))) : error;
    }
    onSent(Math.min(items.length, from + MOST_ITEMS));
  }
  return { ...total, unknown: [...new Set(total.unknown)] };
}

/** Name rows of the table in place of the request's items. */
function withRows(problem: ApiError["problem"], rows: readonly number[]): ApiError["problem"] {
  const place = <T extends { pointer?: string }>(one: T): T => {
    const item = /^\/items\/(\d+)/.exec(one.pointer ?? "")?.[1];
    const row = item === undefined ? undefined : rows[Number(item)];
    if (row === undefined) return one;
    const placed: T & { row?: number } = { ...one, row };
    delete placed.pointer;
    return placed;
  };
  return { ...place(problem), ...(problem.errors && { errors: problem.errors.map(place) }) };
}
