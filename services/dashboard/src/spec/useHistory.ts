/** A text that can be undone, with Ctrl+Z too. */

import { useCallback, useEffect, useMemo, useState } from "react";
import { begin, changed, redone, undone } from "./history";

type Change = string | ((old: string) => string);

export interface TextHistory {
  text: string;
  setText: (change: Change) => void;
  /** Null where there is nothing to undo or redo. */
  undo: (() => void) | null;
  redo: (() => void) | null;
}

/** Fields with letters of their own keep the browser's undo; `data-history` marks the field that shows this text. */
function isAnotherField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input:not([type=checkbox]):not([type=range]), textarea:not([data-history]), [contenteditable]");
}

export function useHistory(start: string): TextHistory {
  const [history, setHistory] = useState(() => begin(start));
  const setText = useCallback((change: Change) => {
    const now = performance.now();
    setHistory((old) => changed(old, typeof change === "string" ? change : change(old.text), now));
  }, []);
  const undo = useCallback(() => setHistory(undone), []);
  const redo = useCallback(() => setHistory(redone), []);
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const key = event.key.toLowerCase();
      if (!(event.ctrlKey || event.metaKey) || event.altKey || (key !== "z" && key !== "y") || isAnotherField(event.target)) return;
      event.preventDefault();
      if (key === "y" || event.shiftKey) redo();
      else undo();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [undo, redo]);
  const { text, past, future } = history;
  return useMemo(() => ({ text, setText, undo: past.length > 0 ? undo : null, redo: future.length > 0 ? redo : null }), [text, setText, past, future, undo, redo]);
}
