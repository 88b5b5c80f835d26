/** A network's entries: as the builder edits them and as the spec writes them. */

import type { Json, JsonObject } from "./document";

export interface Entry {
  /** The Keras class, such as `Dense`. */
  cls: string;
  args: JsonObject;
  /** The members beside the class: name, inputs, output. */
  beside: JsonObject;
}

const BESIDE = new Set(["name", "inputs", "output"]);

/** The argument that a layer's shorthand sets. */
const FIRST: Record<string, string> = {
  Dense: "units",
  Dropout: "rate",
  Activation: "activation",
  GaussianNoise: "stddev",
  GaussianDropout: "rate",
  SpatialDropout1D: "rate",
  SpatialDropout2D: "rate",
  AlphaDropout: "rate",
  LSTM: "units",
  GRU: "units",
  SimpleRNN: "units",
  Conv1D: "filters",
  Conv2D: "filters",
  Embedding: "input_dim",
  MaxPooling1D: "pool_size",
  MaxPooling2D: "pool_size",
  AveragePooling1D: "pool_size",
  AveragePooling2D: "pool_size",
  Reshape: "target_shape",
  Permute: "dims",
  RepeatVector: "n",
  Rescaling: "scale",
  LeakyReLU: "negative_slope",
};

const isObject = (value: unknown): value is JsonObject =>
  value !== null && typeof value === "object" && !Array.isArray(value);

/** Read one entry in any form that a spec allows; null if it is not one. */
export function readEntry(value: Json): Entry | null {
  if (typeof value === "string") return { cls: value, args: {}, beside: {} };
  if (!isObject(value)) return null;
  if (typeof value.class_name === "string") {
    return { cls: value.class_name, args: isObject(value.config) ? value.config : {}, beside: {} };
  }
  const beside = Object.fromEntries(Object.entries(value).filter(([key]) => BESIDE.has(key)));
  const [own, ...more] = Object.entries(value).filter(([key]) => !BESIDE.has(key));
  if (!own || more.length > 0) return null;
  const [cls, inner] = own;
  if (inner === null || inner === undefined) return { cls, args: {}, beside };
  if (isObject(inner)) return { cls, args: inner, beside };
  return { cls, args: { [FIRST[cls] ?? "value"]: inner }, beside };
}

/** Write an entry in its shortest form. */
export function writeEntry({ cls, args, beside }: Entry): Json {
  const names = Object.keys(args);
  if (names.length === 0 && Object.keys(beside).length === 0) return cls;
  const first = FIRST[cls];
  const only = names.length === 1 && first !== undefined && names[0] === first ? args[first] : undefined;
  const inner: Json = only !== undefined && !isObject(only) && cls !== "Dense" ? only : args;
  return { [cls]: inner, ...beside };
}

/** Read the entries of `network`; null for Keras's `to_json()` or a broken one, which can only be edited as text. */
export function readNetwork(network: Json | undefined): Entry[] | null {
  if (network === undefined) return DEFAULT_NETWORK.map((entry) => structuredClone(entry));
  if (!Array.isArray(network)) return null;
  const entries = network.map(readEntry);
  return entries.every((entry) => entry !== null) ? (entries as Entry[]) : null;
}

/** The server's default for a spec without a network. */
export const DEFAULT_NETWORK: readonly Entry[] = [
  { cls: "Dense", args: { units: 64, activation: "relu", kernel_initializer: "HeNormal" }, beside: {} },
  { cls: "Dropout", args: { rate: 0.1 }, beside: {} },
  { cls: "Dense", args: { units: 64, activation: "relu", kernel_initializer: "HeNormal" }, beside: {} },
  { cls: "Dropout", args: { rate: 0.1 }, beside: {} },
];

/** Summarize a layer in a few characters: `64 relu`, `0.2`. */
export function summaryOf(entry: Entry): string {
  return Object.entries(entry.args)
    .map(([name, value]) => {
      if (["units", "rate", "activation", "filters", "stddev", "pool_size"].includes(name)) return String(value);
      if (isObject(value)) return `${name} ${describe(value)}`;
      return `${name} ${JSON.stringify(value)}`;
    })
    .join(" · ");
}

function describe(value: JsonObject): string {
  const [name, inner] = Object.entries(value)[0] ?? ["", null];
  if (isObject(inner)) return `${name} ${Object.values(inner).map(String).join(", ")}`;
  return inner === null ? name : `${name} ${String(inner)}`;
}

/** The layers offered first, by purpose. */
export const PALETTE: readonly { group: "dense" | "regularize" | "normalize" | "sequence" | "shape" | "merge"; names: readonly string[] }[] = [
  { group: "dense", names: ["Dense", "Activation", "LeakyReLU", "PReLU"] },
  { group: "regularize", names: ["Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "SpatialDropout1D"] },
  { group: "normalize", names: ["BatchNormalization", "LayerNormalization", "Rescaling"] },
  {
    group: "sequence",
    names: ["Embedding", "LSTM", "GRU", "Conv1D", "Conv2D", "MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalAveragePooling1D"],
  },
  { group: "shape", names: ["Flatten", "Reshape"] },
  { group: "merge", names: ["Concatenate", "Add"] },
];

/** A new layer with its initial arguments. */
export function fresh(cls: string): Entry {
  const starts: Record<string, JsonObject> = {
    Dense: { units: 32, activation: "relu" },
    Activation: { activation: "relu" },
    Dropout: { rate: 0.2 },
    GaussianNoise: { stddev: 0.1 },
    GaussianDropout: { rate: 0.2 },
    AlphaDropout: { rate: 0.1 },
    SpatialDropout1D: { rate: 0.2 },
    Rescaling: { scale: 0.00392156862745098 },
    Embedding: { input_dim: 1000, output_dim: 16 },
    LSTM: { units: 32 },
    GRU: { units: 32 },
    Conv1D: { filters: 32, kernel_size: 5, activation: "relu" },
    Conv2D: { filters: 16, kernel_size: 3, activation: "relu" },
    MaxPooling1D: { pool_size: 2 },
    MaxPooling2D: { pool_size: 2 },
    Reshape: { target_shape: [28, 28, 1] },
  };
  return { cls, args: { ...(starts[cls] ?? {}) }, beside: {} };
}
