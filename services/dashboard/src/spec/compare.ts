/** Differences between specs, and whether results differ by more than seed-to-seed noise. */

export interface Difference {
  path: string;
  values: (string | null)[];
}

function flatten(value: unknown, path: string, into: Map<string, string>): void {
  if (value !== null && typeof value === "object") {
    const entries = Array.isArray(value) ? value.map((item, index) => [String(index), item] as const) : Object.entries(value);
    if (entries.length === 0) into.set(path, Array.isArray(value) ? "[]" : "{}");
    for (const [key, inner] of entries) flatten(inner, `${path}/${key}`, into);
  } else into.set(path, JSON.stringify(value));
}

/** The paths at which the specs differ, in order of first appearance. */
export function differences(specs: readonly unknown[]): Difference[] {
  const flat = specs.map((spec) => {
    const into = new Map<string, string>();
    flatten(spec, "", into);
    return into;
  });
  const paths = new Set(flat.flatMap((one) => [...one.keys()]));
  return [...paths].flatMap((path) => {
    const values = flat.map((one) => one.get(path) ?? null);
    return new Set(values).size > 1 ? [{ path, values }] : [];
  });
}

export type Word = "better" | "worse" | "noise";

/**
 * Welch's t over the trials of two runs: better, worse, or within noise. Null if one of them has
 * fewer than three trials, which prove nothing.
 */
export function verdict(base: readonly number[], other: readonly number[], mode: "min" | "max"): Word | null {
  if (base.length < 3 || other.length < 3) return null;
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = (values: readonly number[]) => values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1);
  const [a, b] = [variance(base) / base.length, variance(other) / other.length];
  const gain = (mean(other) - mean(base)) * (mode === "min" ? -1 : 1);
  if (a + b === 0) return gain === 0 ? "noise" : gain > 0 ? "better" : "worse";
  const freedom = (a + b) ** 2 / (a ** 2 / (base.length - 1) + b ** 2 / (other.length - 1));
  if (Math.abs(gain) / Math.sqrt(a + b) < critical(freedom)) return "noise";
  return gain > 0 ? "better" : "worse";
}

/** The two-sided 95% point of Student's t, by the Cornish-Fisher expansion around the normal quantile. */
function critical(freedom: number): number {
  const z = 1.959964;
  const v = Math.max(1.5, freedom);
  return z + (z ** 3 + z) / (4 * v) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * v ** 2) + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * v ** 3);
}
