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
  /** Two columns of a table and its target, instead of a sample. */
  own: OwnTable | null;
}

export interface OwnTable {
  ref: string;
  x: string;
  y: string;
  target: string;
  regression: boolean;
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
  own: null,
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
    own: readOwn(query.get("own")),
  };
  const start = (query.get("start") ?? "").split("_").map(Number);
  return start.length === countOf(formOf(found)) && start.every((value) => Number.isFinite(value) && Math.abs(value) < 1e6) ? { ...found, start } : found;
}

function readOwn(text: string | null): OwnTable | null {
  try {
    const [ref, x, y, target, regression] = JSON.parse(text ?? "null") as unknown[];
    const texts = [ref, x, y, target];
    return texts.every((one) => typeof one === "string") ? { ref: String(ref), x: String(x), y: String(y), target: String(target), regression: regression === 1 } : null;
  } catch {
    return null;
  }
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

const isOwn = (value: unknown): value is OwnTable => typeof value === "object" && value !== null && "ref" in value;
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

const written = (value: unknown, separator: string): string => (value === null ? "" : isOwn(value) ? JSON.stringify([value.ref, value.x, value.y, value.target, value.regression ? 1 : 0]) : Array.isArray(value) ? value.join(separator) : typeof value === "boolean" ? (value ? "1" : "0") : String(value));

export const isRegression = ({ sample, own }: Pick<Controls, "sample" | "own">): boolean => (own ? own.regression : sample === "plane" || sample === "multi");

/** The network's shape for these controls. */
export const formOf = ({ features, layers, activation, sample, own }: Controls): Form => ({ features, layers, activation, output: isRegression({ sample, own }) ? "linear" : "sigmoid" });

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
  const { regularizer, strength, activation, layers, start, features, own } = controls;
  const penalty: JsonObject = regularizer === "none" || strength === 0 ? {} : { kernel_regularizer: { [regularizer]: strength } };
  const form = formOf(controls);
  const from = start.length > 0 ? unflatten(form, start) : [];
  const begins = (at: number): JsonObject => (from[at] ? constants(from[at]) : {});
  const network: Json[] = layers.map((units, at) => ({ Dense: { units, activation, ...penalty, ...begins(at) } }));
  if (start.length > 0) network.push({ Dense: { units: 1, activation: form.output, ...begins(layers.length) }, output: true });
  const training: JsonObject = { optimizer: { SGD: { learning_rate: controls.rate } }, batch_size: controls.batch, epochs: controls.epochs, seed: controls.seed };
  // The server scales a table's columns in its own way, so it begins from weights of its own.
  if (own) return { dataset, target: own.target, features: [own.x, own.y], network: layers.map((units) => ({ Dense: { units, activation, ...penalty } })), training };
  return {
    dataset,
    target: "label",
    features: features.map((column) => ({ column, encoding: "pass_through" })),
    split: { time: { by: "draw", validation: Number(((100 - controls.share) / 100).toFixed(4)), test: 0 } },
    network,
    training,
  };
}
