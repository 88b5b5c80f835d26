/** Two languages, one set of keys: `zh.ts` is typed by `en.ts`, so that none can be missing. */

import { useSyncExternalStore } from "react";
import { readPreference, writePreference } from "../state/preferences";
import { en } from "./en";
import { zh } from "./zh";

export type Language = "en" | "zh-Hant";
export type Key = keyof typeof en;
export type Values = Record<string, string | number>;

const TABLES: Record<Language, Record<Key, string>> = { en, "zh-Hant": zh };
const listeners = new Set<() => void>();

function preferred(): Language {
  const chosen = readPreference("language");
  if (chosen === "en" || chosen === "zh-Hant") return chosen;
  return typeof navigator !== "undefined" && navigator.language.toLowerCase().startsWith("zh") ? "zh-Hant" : "en";
}

let language: Language = preferred();
if (typeof document !== "undefined") document.documentElement.lang = language;

export function setLanguage(next: Language): void {
  language = next;
  writePreference("language", next);
  document.documentElement.lang = next;
  listeners.forEach((listener) => listener());
}

export const currentLanguage = (): Language => language;

/** The text of a key, `{name}` replaced. */
export function translate(into: Language, key: Key, values: Values = {}): string {
  return TABLES[into][key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

const subscribe = (listener: () => void): (() => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export const useLanguage = (): Language => useSyncExternalStore(subscribe, () => language);

export type Translate = (key: Key, values?: Values) => string;

export function useText(): Translate {
  const into = useLanguage();
  return (key, values) => translate(into, key, values);
}
