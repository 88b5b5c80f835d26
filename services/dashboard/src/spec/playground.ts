/** The playground's controls, their encoding in the address, and the spec they stand for. */

import type { Json, JsonObject } from "./document";
import { countOf, FEATURES, unflatten, type Feature, type Form, type LayerWeights } from "./tinynet";

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
  /** Percentage of rows used for training. */
  share: number;
  batch: number;
  features: readonly Feature[];
  layers: readonly number[];
  activation: (typeof ACTIVATIONS)[number];
  rate: number;
  regularizer: (typeof REGULARIZERS)[number];
  strength: number;
  epochs: number;
  /** Edited weights and biases to start training from; empty: drawn from the seed. */
  start: readonly number[];
}

/** Display options; changing them does not restart training. */
export interface View {
  test: boolean;
  discrete: boolean;
  speed: number;
  /** Hidden controls, for teaching. */
  hide: readonly Hideable[];
}

export const HIDEABLE = ["transport", "sample", "share", "noise", "batch", "regenerate", "features", "layers", "rate", "activation", "regularization", "epochs", "weights", "test", "discrete", "speed"] as const;
export type Hideable = (typeof HIDEABLE)[number];
export const SPEEDS = [5, 10, 20, 60] as const;
export const DEFAULT_VIEW: View = { test: false, discrete: false, speed: 20, hide: [] };

/** TensorFlow Playground's defaults. */
export const DEFAULTS: Controls = {
  sample: "circle",
  noise: 0,
  seed: 0,
  share: 50,
  batch: 10,
  features: ["x1", "x2"],
  layers: [4, 2],
  activation: "tanh",
  rate: 0.03,
  regularizer: "none",
  strength: 0,
  epochs: 200,
  start: [],
};

const oneOf = <T extends string>(value: string | null, known: readonly T[], otherwise: T): T => known.find((one) => one === value) ?? otherwise;

const within = (value: string | null, low: number, high: number, otherwise: number): number => {
  const number = value === null || value.trim() === "" ? Number.NaN : Number(value);
  return Number.isFinite(number) ? Math.min(high, Math.max(low, number)) : otherwise;
};

/** Read controls from an address, clamped to values that can be trained. */
export function readControls(query: URLSearchParams): Controls {
  const layers = query.get("layers");
  const features = (query.get("features") ?? "").split("-");
  const chosen = FEATURES.filter((feature) => features.includes(feature));
  const found: Controls = {
    sample: oneOf(query.get("sample"), SAMPLES, DEFAULTS.sample),
    noise: Math.round(within(query.get("noise"), 0, 50, DEFAULTS.noise)),
    seed: Math.round(within(query.get("seed"), 0, 2 ** 31, DEFAULTS.seed)),
    share: Math.round(within(query.get("share"), 10, 90, DEFAULTS.share)),
    batch: Math.round(within(query.get("batch"), 1, 30, DEFAULTS.batch)),
    features: chosen.length > 0 ? chosen : DEFAULTS.features,
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
    start: [],
  };
  const start = (query.get("start") ?? "").split("_").map(Number);
  return start.length === countOf(formOf(found)) && start.every((value) => Number.isFinite(value) && Math.abs(value) < 1e6) ? { ...found, start } : found;
}

export function readView(query: URLSearchParams): View {
  const hidden = (query.get("hide") ?? "").split("-");
  return {
    test: query.get("test") === "1",
    discrete: query.get("discrete") === "1",
    speed: SPEEDS.find((speed) => String(speed) === query.get("speed")) ?? DEFAULT_VIEW.speed,
    hide: HIDEABLE.filter((name) => hidden.includes(name)),
  };
}

const SEPARATORS: Partial<Record<string, string>> = { start: "_" };

/** Write only what differs from the defaults, which keeps the address short. */
export function writeControls(controls: Controls, view: View = DEFAULT_VIEW): URLSearchParams {
  const query = new URLSearchParams();
  const parts: [Record<string, unknown>, Record<string, unknown>][] = [
    [{ ...controls }, { ...DEFAULTS }],
    [{ ...view }, { ...DEFAULT_VIEW }],
  ];
  for (const [own, usual] of parts) {
    for (const name of Object.keys(usual)) {
      const [value, other] = [own[name], usual[name]].map((one) => written(one, SEPARATORS[name] ?? "-"));
      if (value !== other && value !== undefined) query.set(name, value);
    }
  }
  return query;
}

const written = (value: unknown, separator: string): string => (Array.isArray(value) ? value.join(separator) : typeof value === "boolean" ? (value ? "1" : "0") : String(value));

export const isRegression = (sample: SampleName): boolean => sample === "plane" || sample === "multi";

/** The network's shape for these controls. */
export const formOf = ({ features, layers, activation, sample }: Controls): Form => ({ features, layers, activation, output: isRegression(sample) ? "linear" : "sigmoid" });

/** Change controls; edited weights are dropped when the network's shape changes, because they no longer fit. */
export function changed(controls: Controls, part: Partial<Controls>): Controls {
  const next = { ...controls, ...part };
  return next.start.length === countOf(formOf(next)) && part.seed === undefined ? next : { ...next, start: [] };
}

const constants = ({ kernel, bias }: LayerWeights): JsonObject => ({
  kernel_initializer: { Constant: { value: kernel as Json } },
  bias_initializer: { Constant: { value: bias as Json } },
});

/**
 * The spec of a short run on a sample created with `derived`: the rows with the smallest `draw` train, the others
 * form the validation part, which the playground calls test data, as TensorFlow Playground does.
 */
export function specOf(controls: Controls, dataset: string): JsonObject {
  const { regularizer, strength, activation, layers, start, features } = controls;
  const penalty: JsonObject = regularizer === "none" || strength === 0 ? {} : { kernel_regularizer: { [regularizer]: strength } };
  const form = formOf(controls);
  const from = start.length > 0 ? unflatten(form, start) : [];
  const begins = (at: number): JsonObject => (from[at] ? constants(from[at]) : {});
  const network: Json[] = layers.map((units, at) => ({ Dense: { units, activation, ...penalty, ...begins(at) } }));
  if (start.length > 0) network.push({ Dense: { units: 1, activation: form.output, ...begins(layers.length) }, output: true });
  return {
    dataset,
    target: "label",
    features: features.map((column) => ({ column, encoding: "pass_through" })),
    split: { time: { by: "draw", validation: Number(((100 - controls.share) / 100).toFixed(4)), test: 0 } },
    network,
    training: {
      optimizer: { SGD: { learning_rate: controls.rate } },
      batch_size: controls.batch,
      epochs: controls.epochs,
      seed: controls.seed,
    },
  };
}

/** The recorded epochs on both sides of an epoch, and its position between them. */
export function between(recorded: readonly number[], epoch: number): { from: number; to: number; share: number } | null {
  const first = recorded[0];
  const last = recorded.at(-1);
  if (first === undefined || last === undefined) return null;
  if (epoch <= first) return { from: first, to: first, share: 0 };
  if (epoch >= last) return { from: last, to: last, share: 0 };
  const at = recorded.findIndex((one) => one > epoch);
  const [from, to] = [recorded[at - 1] ?? first, recorded[at] ?? last];
  return { from, to, share: (epoch - from) / (to - from) };
}
