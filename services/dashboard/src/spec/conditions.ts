/** Conditions of slices in words, and the order of their table. */

import { cell, number } from "../format";
import type { Translate } from "../i18n";

export interface Condition {
  column: string;
  equals?: string;
  from?: number | string | null;
  to?: number | string | null;
  missing?: boolean;
  others?: number;
}

export interface Figures {
  rows: number;
  share: number;
  value: number | null;
  interval: [number, number] | null;
  rest: number | null;
  difference: number | null;
  difference_interval: [number, number] | null;
  more: Record<string, number>;
  p_adjusted: number;
}

export interface WorstSlice extends Figures {
  conditions: Condition[];
  guessing: number;
  judged_rows: number;
}

export interface ColumnSlices {
  column: string;
  items: (Figures & { condition: Condition; worse: boolean })[];
}

const end = (value: number | string): string => (typeof value === "number" ? number(value) : value);

export function conditionText(one: Condition, t: Translate): string {
  if (one.missing) return t("slices.missing", { column: one.column });
  if (one.others !== undefined) return t("slices.others", { column: one.column, n: one.others });
  if (one.equals !== undefined) return `${one.column} = ${cell(one.equals)}`;
  const low = one.from === null || one.from === undefined ? null : end(one.from);
  const high = one.to === null || one.to === undefined ? null : end(one.to);
  if (low === null) return high === null ? one.column : `${one.column} < ${high}`;
  return high === null ? `${one.column} ≥ ${low}` : `${low} ≤ ${one.column} < ${high}`;
}

export type SortKey = "difference" | "value" | "rows" | "p_adjusted";

/** The worst first; p-values the smallest first. */
export function sorted(slices: readonly WorstSlice[], key: SortKey, reversed: boolean): WorstSlice[] {
  const sign = (key === "p_adjusted") === reversed ? -1 : 1;
  return [...slices].sort((a, b) => sign * ((a[key] ?? 0) - (b[key] ?? 0)));
}

export const range = (interval: readonly number[] | null | undefined, digits = 3): string =>
  interval && interval.length === 2 ? `${number(interval[0], digits)} – ${number(interval[1], digits)}` : "";
