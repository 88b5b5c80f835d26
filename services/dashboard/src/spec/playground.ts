/** The playground's controls, their place in the address, and the spec that they are. */

import type { JsonObject } from "./document";

export const SAMPLES = ["circle", "xor", "gauss", "spiral", "plane", "multi"] as const;
export type SampleName = (typeof SAMPLES)[number];
export const RATES = [0.00001, 0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10] as const;
export const ACTIVATIONS = ["relu", "tanh", "sigmoid", "linear"] as const;
export const REGULARIZERS = ["none", "L1", "L2"] as const;
export const REGULARIZATION_RATES = [0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10] as const;
export const MOST_LAYERS = 6;
export const MOST_NEURONS = 8;

export interface Controls {
  sample: SampleName;
  noise: number;
  seed: number;
  /** Percent of the rows that train. */
  share: number;
  batch: number;
  layers: readonly number[];
  activation: (typeof ACTIVATIONS)[number];
  rate: number;
  regularizer: (typeof REGULARIZERS)[number];
  strength: number;
  epochs: number;
}

/** TensorFlow Playground's own defaults. */
export const DEFAULTS: Controls = {
  sample: "circle",
  noise: 0,
  seed: 0,
  share: 50,
  batch: 10,
  layers: [4, 2],
  activation: "tanh",
  rate: 0.03,
  regularizer: "none",
  strength: 0,
  epochs: 200,
};

const oneOf = <T extends string>(value: string | null, known: readonly T[], otherwise: T): T => known.find((one) => one === value) ?? otherwise;

const within = (value: string | null, low: number, high: number, otherwise: number): number => {
  const number = value === null || value.trim() === "" ? Number.NaN : Number(value);
  return Number.isFinite(number) ? Math.min(high, Math.max(low, number)) : otherwise;
};

/** Whatever the address says, the controls are ones that can be trained. */
export function readControls(query: URLSearchParams): Controls {
  const layers = query.get("layers");
  return {
    sample: oneOf(query.get("sample"), SAMPLES, DEFAULTS.sample),
    noise: Math.round(within(query.get("noise"), 0, 50, DEFAULTS.noise)),
    seed: Math.round(within(query.get("seed"), 0, 2 ** 31, DEFAULTS.seed)),
    share: Math.round(within(query.get("share"), 10, 90, DEFAULTS.share)),
    batch: Math.round(within(query.get("batch"), 1, 30, DEFAULTS.batch)),
    layers:
      layers === null
        ? DEFAULTS.layers
        : layers
            .split("-")
            .filter(Boolean)
            .slice(0, MOST_LAYERS)
            .map((units) => Math.round(within(units, 1, MOST_NEURONS, 4))),
    activation: oneOf(query.get("activation"), ACTIVATIONS, DEFAULTS.activation),
    rate: within(query.get("rate"), 0.00001, 10, DEFAULTS.rate),
    regularizer: oneOf(query.get("regularizer"), REGULARIZERS, DEFAULTS.regularizer),
    strength: within(query.get("strength"), 0, 10, DEFAULTS.strength),
    epochs: Math.round(within(query.get("epochs"), 10, 2000, DEFAULTS.epochs)),
  };
}

/** Only what differs from the defaults: a short address. */
export function writeControls(controls: Controls): URLSearchParams {
  const query = new URLSearchParams();
  for (const name of Object.keys(DEFAULTS) as (keyof Controls)[]) {
    const [value, usual] = [controls[name], DEFAULTS[name]].map((one) => (Array.isArray(one) ? one.join("-") : String(one)));
    if (value !== usual && value !== undefined) query.set(name, value);
  }
  return query;
}

export const isRegression = (sample: SampleName): boolean => sample === "plane" || sample === "multi";

/** The spec of a short run. Half of what does not train is for validation, so that the test part is never looked at. */
export function specOf(controls: Controls, dataset: string): JsonObject {
  const { regularizer, strength, activation } = controls;
  const penalty: JsonObject = regularizer === "none" || strength === 0 ? {} : { kernel_regularizer: { [regularizer]: strength } };
  const held = Number(((100 - controls.share) / 200).toFixed(4));
  return {
    dataset,
    target: "label",
    features: [{ column: "x1", encoding: "pass_through" }, { column: "x2", encoding: "pass_through" }],
    split: { validation: held, test: held },
    network: controls.layers.map((units) => ({ Dense: { units, activation, ...penalty } })),
    training: {
      optimizer: { SGD: { learning_rate: controls.rate } },
      batch_size: controls.batch,
      epochs: controls.epochs,
      seed: controls.seed,
    },
  };
}

/** The kept epochs on both sides of one, and how far it is between them. */
export function between(kept: readonly number[], epoch: number): { from: number; to: number; share: number } | null {
  const first = kept[0];
  const last = kept.at(-1);
  if (first === undefined || last === undefined) return null;
  if (epoch <= first) return { from: first, to: first, share: 0 };
  if (epoch >= last) return { from: last, to: last, share: 0 };
  const at = kept.findIndex((one) => one > epoch);
  const [from, to] = [kept[at - 1] ?? first, kept[at] ?? last];
  return { from, to, share: (epoch - from) / (to - from) };
}
