/** Whether the server answers. */

import { useSyncExternalStore } from "react";

let answers = true;
const listeners = new Set<() => void>();

/** Record that a request was answered, or that nothing did. */
export function setAnswers(now: boolean): void {
  if (now === answers) return;
  answers = now;
  listeners.forEach((listener) => listener());
}

/** What a proxy says of a server that is not there. */
export const isOutage = (status: number): boolean => status === 0 || status === 502 || status === 504;

const subscribe = (listener: () => void): (() => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export const useAnswers = (): boolean => useSyncExternalStore(subscribe, () => answers);
