/** The spec being edited. The YAML text is the single source of truth: forms read it and write to it. */

import { type Document, isMap, isScalar, isSeq, parseDocument, stringify } from "yaml";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = Record<string, Json>;
export type Path = readonly (string | number)[];

export interface Reading {
  /** The spec, or null if the text is not a mapping. */
  spec: JsonObject | null;
  /** Why the text cannot be parsed, and on which line. */
  problem: { detail: string; line: number } | null;
}

const OPTIONS = { prettyErrors: true, uniqueKeys: true } as const;

export function read(text: string): Reading {
  const parsed = parseDocument(text, OPTIONS);
  const error = parsed.errors[0];
  if (error) {
    const detail = (error.message.split("\n")[0] ?? error.message).replace(/ at line \d+, column \d+:?$/, "");
    return { spec: null, problem: { detail, line: error.linePos?.[0].line ?? 1 } };
  }
  try {
    const value = parsed.toJS({ maxAliasCount: 0 }) as Json; // no aliases: the server takes none
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return { spec: value, problem: null };
    return { spec: null, problem: { detail: "A spec is a mapping.", line: 1 } };
  } catch (failure) {
    return { spec: null, problem: { detail: (failure as Error).message, line: 1 } };
  }
}

export const write = (spec: JsonObject): string => stringify(spec, { lineWidth: 100 });

/** The value at a path; undefined if there is none. */
export function at(spec: Json | undefined, path: Path): Json | undefined {
  let here: Json | undefined = spec;
  for (const step of path) {
    if (here === null || typeof here !== "object") return undefined;
    here = Array.isArray(here) ? here[Number(step)] : here[String(step)];
  }
  return here;
}

/** Change one value in the text, keeping comments and everything else; `undefined` removes it. */
export function edit(text: string, path: Path, value: Json | undefined): string {
  const document = parseDocument(text, OPTIONS);
  if (document.errors.length > 0) return text;
  if (document.contents === null || !isMap(document.contents)) document.contents = document.createNode({}) as never;
  if (value === undefined) remove(document, path);
  else {
    clearWay(document, path);
    document.setIn(path, document.createNode(value));
  }
  return document.toString({ lineWidth: 100 });
}

/** Replace a scalar on the path (a shorthand such as `optimizer: Adam`) by a mapping. */
function clearWay(document: Document, path: Path): void {
  for (let depth = 1; depth < path.length; depth += 1) {
    const node = document.getIn(path.slice(0, depth), true);
    if (node !== undefined && !isMap(node) && !isSeq(node)) document.setIn(path.slice(0, depth), document.createNode({}));
  }
}

function remove(document: Document, path: Path): void {
  if (!document.hasIn(path)) return;
  document.deleteIn(path);
  const parent = path.slice(0, -1);
  const node = parent.length > 0 ? document.getIn(parent, true) : undefined;
  // An empty mapping is the same as none, but an empty list is not: it means no hidden layers.
  if (isMap(node) && node.items.length === 0 && parent.length > 0 && parent[0] !== "network") remove(document, parent);
}

/** The line (from 1) of a JSON Pointer's value, for marking an error; null if it is absent. */
export function lineOf(text: string, pointer: string): number | null {
  const document = parseDocument(text, OPTIONS);
  const steps = pointer.split("/").slice(1).map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  for (let depth = steps.length; depth > 0; depth -= 1) {
    const path = steps.slice(0, depth).map((step) => (/^\d+$/.test(step) ? Number(step) : step));
    const node = document.getIn(path, true);
    if ((isScalar(node) || isMap(node) || isSeq(node)) && node.range) {
      return text.slice(0, node.range[0]).split("\n").length;
    }
  }
  return null;
}
