/** Numbers, sizes and times for display. */

import { currentLanguage } from "./i18n";

const formats = new Map<string, unknown>();

/** A format of this language and these options, made once: making one costs more than a hundred uses. */
function made<T>(key: string, make: (language: string) => T): T {
  const whole = `${currentLanguage()} ${key}`;
  if (!formats.has(whole)) formats.set(whole, make(currentLanguage()));
  return formats.get(whole) as T;
}

const numbers = (digits: number | null, useGrouping = true): Intl.NumberFormat =>
  made(`number ${digits} ${useGrouping}`, (language) => new Intl.NumberFormat(language, digits === null ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits, useGrouping }));

export function number(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return numbers(null).format(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(Math.max(0, digits - 2));
  return numbers(digits, size >= 1e4).format(value);
}

/** The ticks of one axis, all with as many decimals as tell them apart. */
export function ticks(values: readonly number[]): string[] {
  const step = Math.min(...values.slice(1).map((value, at) => Math.abs(value - (values[at] ?? 0))));
  const largest = Math.max(...values.map(Math.abs));
  const decimals = [0, 1, 2, 3, 4, 5].find((places) => Math.abs(step * 10 ** places - Math.round(step * 10 ** places)) < 1e-6);
  if (values.length < 2 || decimals === undefined || largest >= 1e7) return values.map((value) => number(value, 3));
  const format = made(`ticks ${decimals}`, (language) => new Intl.NumberFormat(language, { minimumFractionDigits: decimals, maximumFractionDigits: decimals, useGrouping: largest >= 1e4 }));
  return values.map((value) => format.format(value));
}

export const percent = (share: number | null | undefined, digits = 1): string =>
  share === null || share === undefined || !Number.isFinite(share) ? "–" : `${(100 * share).toFixed(digits)}%`;

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? size : size.toFixed(size < 10 ? 1 : 0)} ${units[unit] ?? ""}`;
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
  const [h, min, s] = currentLanguage() === "zh-Hant" ? ["小時", "分", "秒"] : ["h", "min", "s"];
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} ${s}`;
  return value < 3600 ? twoUnits(Math.round(value), 60, min, s) : twoUnits(Math.round(value / 60), 60, h, min);
}

/** 90 as `1 min 30 s`, 120 as `2 min`. */
function twoUnits(count: number, per: number, large: string, small: string): string {
  const rest = count % per;
  return `${Math.floor(count / per)} ${large}${rest > 0 ? ` ${rest} ${small}` : ""}`;
}

export function ago(iso: string | null | undefined, now = Date.now()): string {
  if (!iso) return "–";
  const passed = (now - Date.parse(iso)) / 1000;
  const format = made("ago", (language) => new Intl.RelativeTimeFormat(language, { numeric: "auto" }));
  if (Math.abs(passed) < 60) return format.format(-Math.round(passed), "second");
  if (Math.abs(passed) < 3600) return format.format(-Math.round(passed / 60), "minute");
  if (Math.abs(passed) < 86_400) return format.format(-Math.round(passed / 3600), "hour");
  return format.format(-Math.round(passed / 86_400), "day");
}

/** Negative once the moment has passed. */
export const secondsUntil = (iso: string): number => (Date.parse(iso) - Date.now()) / 1000;

export const moment = (iso: string | null | undefined): string =>
  iso ? made("moment", (language) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" })).format(new Date(iso)) : "–";

/** A cell's value as text; null is shown as an empty cell. */
export function cell(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(8)));
  return JSON.stringify(value);
}
