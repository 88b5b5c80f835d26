/**
 * The server's sentences in Chinese: findings, warnings, events and the problems that a person on the pages meets.
 *
 * The server writes them in English, also into its records. `zh.sentences.json` has a Chinese template for each English
 * one, with the same values; it is loaded once a Chinese page needs it. `tests/dashboard/test_sentences.py` finds every
 * sentence in the server's code that has none. Of other problems, the pages name the kind, above the English.
 */

import { useEffect, useSyncExternalStore } from "react";
import { useLanguage } from ".";

export interface Book {
  sentences: Record<string, string>;
  /** What a refused request is answered with: sentences too. */
  problems?: Record<string, string>;
  /** What stands inside of sentences: conditions, names of models, reasons. */
  parts: Record<string, string>;
}

interface Pattern {
  match: RegExp;
  into: string;
  /** Of little text of its own: it could hold any sentence as its value. */
  loose: boolean;
}

const LOOSE = 20; // characters of its own text
const PROSE = /(?:[A-Za-z'-]+ ){4}/; // words in a row

interface Reader {
  /** Those that begin with a text of their own: they cannot swallow another sentence. */
  exact: Pattern[];
  sentences: Pattern[];
  parts: Pattern[];
}

const escaped = (text: string): string => text.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/[{}]/g, "\\$&");

/** A template as a pattern whose groups are its values, in the order of their numbers. */
function pattern([template, into]: [string, string]): Pattern {
  const pieces = template.split(/\{\d+\}/).map(escaped);
  return { match: new RegExp(`^${pieces.join("([\\s\\S]*?)")}$`), into, loose: pieces.length > 1 && pieces.join("").length < LOOSE };
}

/** Templates with the most text of their own come first, so that none hides a more exact one. */
export function readerOf(book: Book): Reader {
  const own = (text: string) => text.replace(/\{\d+\}/g, "").length;
  const sentences = Object.entries({ ...book.sentences, ...book.problems }).sort(([a], [b]) => own(b) - own(a));
  const exact = sentences.filter(([template]) => !template.startsWith("{"));
  return { exact: exact.map(pattern), sentences: sentences.map(pattern), parts: Object.entries(book.parts).map(pattern) };
}

function found(text: string, patterns: readonly Pattern[], reader: Reader): string | null {
  for (const { match, into, loose } of patterns) {
    const values = match.exec(text)?.slice(1).map((value) => part(value, reader));
    if (values && !(loose && values.some((value) => PROSE.test(value)))) return into.replace(/\{(\d+)\}/g, (_, place: string) => values[Number(place)] ?? "");
  }
  return null;
}

const part = (text: string, reader: Reader): string => (/[a-z]{2}/i.test(text) ? (found(text, reader.parts, reader) ?? found(text, reader.sentences, reader) ?? text) : text);

/** A sentence of the server in Chinese; itself where it is none of those that are known. */
export function inChinese(text: string, reader: Reader): string {
  const exact = found(text, reader.exact, reader);
  if (exact !== null) return exact;
  // Two sentences that the server put together.
  const at = text.indexOf(". ");
  const first = at < 0 ? null : found(text.slice(0, at + 1), reader.exact, reader);
  if (first !== null) return `${first}${inChinese(text.slice(at + 2), reader)}`;
  return found(text, reader.sentences, reader) ?? text;
}

const MOST_REMEMBERED = 2000; // sentences: a list draws the same ones again and again
const remembered = new Map<string, string>();

function recall(text: string, reader: Reader): string {
  const known = remembered.get(text);
  if (known !== undefined) return known;
  if (remembered.size >= MOST_REMEMBERED) remembered.clear();
  const said = inChinese(text, reader);
  remembered.set(text, said);
  return said;
}

let loaded: Reader | null = null;
let loading = false;
const listeners = new Set<() => void>();

function load(): void {
  if (loading) return;
  loading = true;
  import("./zh.sentences.json")
    .then(({ default: book }) => {
      loaded = readerOf(book);
      listeners.forEach((listener) => listener());
    })
    .catch(() => {
      loading = false; // the English stays; the next page tries again
    });
}

const subscribe = (listener: () => void): (() => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

/** Returns the server's sentences in the visitor's language. */
export function useSentence(): (text: string) => string {
  const language = useLanguage();
  const reader = useSyncExternalStore(subscribe, () => loaded);
  useEffect(() => {
    if (language === "zh-Hant") load();
  }, [language]);
  return (text) => (language === "zh-Hant" && reader !== null ? recall(text, reader) : text);
}
