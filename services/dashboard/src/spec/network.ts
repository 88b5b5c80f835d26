/** Columns of units for the network's drawing. */

import type { Entry } from "./layers";

export interface Column {
  title: string;
  note: string;
  units: number | null;
  kind: "input" | "dense" | "pass" | "output" | "other";
  activation: string | null;
}

const UNITS = ["units", "filters", "output_dim"] as const;
const PASS = new Set(["Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "SpatialDropout1D", "SpatialDropout2D", "BatchNormalization", "LayerNormalization", "Activation", "LeakyReLU", "PReLU", "ReLU", "ELU", "Softmax"]);

/** One column for the input, one for each layer, one for the output. */
export function columnsOf(entries: readonly Entry[], inputs: number | null, outputs: number | null, names: { input: string; output: string }): Column[] {
  const hidden = entries.map((entry): Column => {
    const units = UNITS.map((name) => entry.args[name]).find((value) => typeof value === "number");
    return {
      title: entry.cls,
      note: noteOf(entry),
      units: typeof units === "number" ? units : null,
      kind: PASS.has(entry.cls) ? "pass" : units === undefined ? "other" : "dense",
      activation: typeof entry.args.activation === "string" ? entry.args.activation : null,
    };
  });
  return [
    { title: names.input, note: "", units: inputs, kind: "input", activation: null },
    ...hidden,
    { title: names.output, note: "", units: outputs, kind: "output", activation: null },
  ];
}

function noteOf(entry: Entry): string {
  const { rate, stddev, activation } = entry.args;
  if (typeof rate === "number") return String(rate);
  if (typeof stddev === "number") return `σ ${stddev}`;
  return typeof activation === "string" ? activation : "";
}

/** The number of units drawn in a column; the rest are given as a count. */
export const MOST_DRAWN = 10;
export const drawnUnits = (units: number | null): number => Math.min(MOST_DRAWN, Math.max(1, units ?? 1));
