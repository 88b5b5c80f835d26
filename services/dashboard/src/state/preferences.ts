/** The visitor's preferences in this browser: theme and language. */

import { useSyncExternalStore } from "react";

export type Theme = "auto" | "light" | "dark";
const listeners = new Set<() => void>();

export function readPreference(name: string): string | null {
  try {
    return localStorage.getItem(`fitserve.${name}`);
  } catch {
    return null; // storage is off
  }
}

export function writePreference(name: string, value: string): void {
  try {
    localStorage.setItem(`fitserve.${name}`, value);
  } catch {
    // Without storage the preference lasts as long as the page.
  }
}

let theme: Theme = (readPreference("theme") as Theme | null) ?? "auto";

function applyTheme(): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function setTheme(next: Theme): void {
  theme = next;
  writePreference("theme", next);
  applyTheme();
  listeners.forEach((listener) => listener());
}

const dark = typeof matchMedia === "undefined" ? null : matchMedia("(prefers-color-scheme: dark)");
dark?.addEventListener("change", () => listeners.forEach((listener) => listener()));
if (typeof document !== "undefined") applyTheme();

const subscribe = (listener: () => void): (() => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export const useTheme = (): Theme => useSyncExternalStore(subscribe, () => theme);

/** Whether the page is dark; canvases must be redrawn when this changes. */
export const useDark = (): boolean =>
  useSyncExternalStore(subscribe, () => theme === "dark" || (theme === "auto" && dark?.matches === true));
