/** A text with what it was before: undo and redo. */

export interface History {
  past: readonly string[];
  text: string;
  future: readonly string[];
  /** When the last change was made, in milliseconds. */
  changedAt: number;
}

const MOST = 200; // steps that can be undone
const TOGETHER_MS = 700; // changes of a few letters within this time of one another are one step
const FEW = 4; // letters

export const begin = (text: string): History => ({ past: [], text, future: [], changedAt: Number.NEGATIVE_INFINITY });

/** Change the text. Letters that are typed in a row are one step. */
export function changed(history: History, text: string, now: number): History {
  if (text === history.text) return history;
  const typed = now - history.changedAt < TOGETHER_MS && Math.abs(text.length - history.text.length) <= FEW && history.past.length > 0 && history.future.length === 0;
  const past = typed ? history.past : [...history.past, history.text].slice(-MOST);
  return { past, text, future: [], changedAt: now };
}

export function undone(history: History): History {
  const before = history.past.at(-1);
  if (before === undefined) return history;
  return { past: history.past.slice(0, -1), text: before, future: [history.text, ...history.future], changedAt: Number.NEGATIVE_INFINITY };
}

export function redone(history: History): History {
  const [next, ...rest] = history.future;
  if (next === undefined) return history;
  return { past: [...history.past, history.text], text: next, future: rest, changedAt: Number.NEGATIVE_INFINITY };
}
