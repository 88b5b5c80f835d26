/** Two languages, one set of keys: `zh.ts` is typed by `en.ts`, so no key can be missing. */

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

/** The text of a key in the visitor's language, outside of components. */
export const currentText = (key: Key, values?: Values): string => translate(language, key, values);

/** Return the text of a key with `{name}` replaced by its value, and `{name:one|several}` by the form for its number. */
export function translate(into: Language, key: Key, values: Values = {}): string {
  return TABLES[into][key].replace(/\{(\w+)(?::([^|}]*)\|([^}]*))?\}/g, (whole, name: string, one?: string, several?: string) =>
    one === undefined ? String(values[name] ?? whole) : String(values[name]) === "1" ? one : (several ?? ""),
  );
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

/** The text of a name that the server has given; the name itself where these pages do not know it yet. */
export const named = (group: string, name: string, t: Translate): string => {
  const key = `${group}.${name}`;
  return key in en ? t(key as Key) : name.replaceAll("_", " ");
};
