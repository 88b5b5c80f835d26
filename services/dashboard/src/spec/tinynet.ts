/** A small dense network in the browser; the playground draws its output from weights that the server recorded. */

export const FEATURES = ["x1", "x2", "x1_squared", "x2_squared", "x1_x2", "sin_x1", "sin_x2"] as const;
export type Feature = (typeof FEATURES)[number];

const OF: Record<Feature, (x: number, y: number) => number> = {
  x1: (x) => x,
  x2: (_, y) => y,
  x1_squared: (x) => x * x,
  x2_squared: (_, y) => y * y,
  x1_x2: (x, y) => x * y,
  sin_x1: (x) => Math.sin(x),
  sin_x2: (_, y) => Math.sin(y),
};

/** A point's features, in the network's order. */
export const inputsOf = (form: Form, x: number, y: number): Float64Array => Float64Array.from(form.features, (name) => OF[name](x, y));

export type Squash = "relu" | "tanh" | "sigmoid" | "linear";

const SQUASH: Record<Squash, (z: number) => number> = {
  relu: (z) => Math.max(0, z),
  tanh: Math.tanh,
  sigmoid: (z) => 1 / (1 + Math.exp(-z)),
  linear: (z) => z,
};

/** The network's shape: its inputs, the units of its hidden layers, and one output. */
export interface Form {
  features: readonly Feature[];
  layers: readonly number[];
  activation: Squash;
  output: Squash;
}

/** Units of every layer after the input, ending with the output's one. */
export const sizesOf = (form: Form): number[] => [...form.layers, 1];

/** The number of weights and biases. */
export function countOf(form: Form): number {
  let before = form.features.length;
  return sizesOf(form).reduce((sum, size) => {
    const own = (before + 1) * size;
    before = size;
    return sum + own;
  }, 0);
}

/** The index, layer by layer, of the weight from unit `from` to unit `to` of `layer` (`from` null: its bias). */
export function placeOf(form: Form, layer: number, from: number | null, to: number): number {
  const sizes = sizesOf(form);
  let start = 0;
  let before = form.features.length;
  for (let at = 0; at < layer; at += 1) {
    const size = sizes[at] ?? 0;
    start += (before + 1) * size;
    before = size;
  }
  const size = sizes[layer] ?? 0;
  return start + (from ?? before) * size + to;
}

export interface LayerWeights {
  kernel: number[][];
  bias: number[];
}

/** Split a flat list into layers again, as a spec's `Constant` takes them. */
export function unflatten(form: Form, values: ArrayLike<number>): LayerWeights[] {
  const weights = Array.from(values);
  let before = form.features.length;
  let start = 0;
  return sizesOf(form).map((size) => {
    const kernel = Array.from({ length: before }, (_, from) => weights.slice(start + from * size, start + (from + 1) * size));
    const bias = weights.slice(start + before * size, start + (before + 1) * size);
    start += (before + 1) * size;
    before = size;
    return { kernel, bias: [...bias] };
  });
}

/** A square grid of points on which networks are drawn; rows from the lowest y up. */
export class Plane {
  private readonly inputs = new Map<Feature, Float32Array>();

  constructor(
    readonly points: number,
    low: number,
    high: number,
  ) {
    const at = (index: number) => low + ((high - low) * (index + 0.5)) / points;
    for (const feature of FEATURES) {
      const values = new Float32Array(points * points);
      for (let row = 0; row < points; row += 1) for (let column = 0; column < points; column += 1) values[row * points + column] = OF[feature](at(column), at(row));
      this.inputs.set(feature, values);
    }
  }

  feature(name: Feature): Float32Array {
    return this.inputs.get(name) ?? new Float32Array(0);
  }

  /** Every unit's output at every point: a list per layer after the input, the output layer last. */
  run(form: Form, weights: ArrayLike<number>): Float32Array[][] {
    let before = form.features.map((name) => this.feature(name));
    let start = 0;
    const sizes = sizesOf(form);
    return sizes.map((size, layer) => {
      const squash = SQUASH[layer === sizes.length - 1 ? form.output : form.activation];
      const biases = start + before.length * size;
      const units = Array.from({ length: size }, (_, to) => {
        const out = new Float32Array(this.points * this.points).fill(weights[biases + to] ?? 0);
        before.forEach((values, from) => {
          const weight = weights[start + from * size + to] ?? 0;
          for (let at = 0; at < out.length; at += 1) out[at] = (out[at] ?? 0) + weight * (values[at] ?? 0);
        });
        for (let at = 0; at < out.length; at += 1) out[at] = squash(out[at] ?? 0);
        return out;
      });
      start = biases + size;
      before = units;
      return units;
    });
  }
}

/** Divide outputs of all units, one behind the other, into lists by layer, as `Plane.run` returns them. */
export function byLayer(form: Form, values: Float32Array): Float32Array[][] {
  const sizes = sizesOf(form);
  const points = values.length / sizes.reduce((sum, size) => sum + size, 0);
  let at = 0;
  return sizes.map((size) => Array.from({ length: size }, () => values.subarray(at, (at += points))));
}

/** Scale values to -1 (orange) to 1 (blue): probabilities around one half, bounded values unchanged, others by their maximum. */
export function toned(values: Float32Array, squash: Squash): Float32Array {
  if (squash === "tanh") return values;
  if (squash === "sigmoid") return values.map((value) => 2 * value - 1);
  const reach = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  return values.map((value) => value / reach);
}
