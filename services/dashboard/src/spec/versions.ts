/** What a later version of a table changes of an earlier one. */

import type { Column, DatasetDetail } from "../api/types";

export interface ColumnChange {
  column: string;
  /** `added` and `removed` have no values; the others have what was and what is. */
  what: "added" | "removed" | "kind" | "missing" | "distinct" | "range" | "mean";
  before?: string | number;
  after?: string | number;
}

export interface VersionChange {
  rows: number;
  /** Only the places of columns differ, or of some. */
  reordered: boolean;
  columns: ColumnChange[];
}

/** Compare a version with an earlier one, column by column, by what is recorded of each. */
export function changeOf(before: DatasetDetail, after: DatasetDetail): VersionChange {
  const [old, now] = [before, after].map((one) => new Map(one.columns.map((column) => [column.name, column]))) as [Map<string, Column>, Map<string, Column>];
  const columns: ColumnChange[] = [];
  for (const column of after.columns) {
    const own = old.get(column.name);
    if (own) columns.push(...changesOf(own, column));
    else columns.push({ column: column.name, what: "added" });
  }
  for (const column of before.columns) if (!now.has(column.name)) columns.push({ column: column.name, what: "removed" });
  const shared = [before, after].map((one) => one.columns.map((column) => column.name).filter((name) => old.has(name) && now.has(name)));
  return { rows: after.rows - before.rows, reordered: String(shared[0]) !== String(shared[1]), columns };
}

function changesOf(before: Column, after: Column): ColumnChange[] {
  const column = after.name;
  const found: ColumnChange[] = [];
  const add = (what: ColumnChange["what"], was: string | number, is: string | number) => was !== is && found.push({ column, what, before: was, after: is });
  add("kind", before.kind, after.kind);
  add("missing", before.missing, after.missing);
  add("distinct", before.distinct, after.distinct);
  add("range", rangeOf(before), rangeOf(after));
  if (before.mean != null && after.mean != null) add("mean", before.mean, after.mean);
  return found;
}

const rangeOf = (column: Column): string => (column.min == null || column.max == null || column.kind === "datetime" ? "" : `${column.min} – ${column.max}`);
