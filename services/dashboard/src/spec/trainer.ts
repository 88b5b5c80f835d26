/**
 * Training a small dense network in the browser, with the server's arithmetic: Keras's losses, penalties and SGD, on
 * weights of 32 bits. `tests/dashboard/test_browser_trainer.py` holds its losses to those of a run.
 */

import { countOf, inputsOf, sizesOf, type Form, type Squash } from "./tinynet";

/** One row: a point of the plane and its target, 0 or 1 for a classification. */
export interface Row {
  x: number;
  y: number;
  target: number;
}

export interface Penalty {
  kind: "none" | "L1" | "L2";
  strength: number;
}

export interface Losses {
  train: number;
  test: number;
}

/** A random number generator of 32 bits (mulberry32), so that an address repeats what it showed. */
export function randomOf(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Glorot's uniform initialization, Keras's default; biases are 0. */
export function initialWeights(form: Form, seed: number): Float32Array {
  const random = randomOf(seed);
  const weights = new Float32Array(countOf(form));
  let before = form.features.length;
  let at = 0;
  for (const size of sizesOf(form)) {
    const limit = Math.sqrt(6 / (before + size));
    for (let one = 0; one < before * size; one += 1) weights[at + one] = (2 * random() - 1) * limit;
    at += (before + 1) * size;
    before = size;
  }
  return weights;
}

export const squash = (kind: Squash, z: number): number => (kind === "tanh" ? Math.tanh(z) : kind === "relu" ? Math.max(0, z) : kind === "sigmoid" ? 1 / (1 + Math.exp(-z)) : z);

/** The derivative of an activation, from its value `a` at `z`. */
export const slope = (kind: Squash, z: number, a: number): number => (kind === "tanh" ? 1 - a * a : kind === "relu" ? (z > 0 ? 1 : 0) : kind === "sigmoid" ? a * (1 - a) : 1);

/** A row's loss: binary cross-entropy from the logit, or the squared error. */
export const lossOf = (output: Squash, z: number, target: number): number => (output === "sigmoid" ? Math.max(z, 0) - z * target + Math.log1p(Math.exp(-Math.abs(z))) : (z - target) ** 2);

/** The derivative of a row's loss by the output's weighted sum. */
export const lossSlope = (output: Squash, z: number, target: number): number => (output === "sigmoid" ? squash("sigmoid", z) - target : 2 * (z - target));

interface Layer {
  before: number;
  size: number;
  /** Where its kernel begins; its biases follow. */
  at: number;
  sums: Float64Array;
  outputs: Float64Array;
  slopes: Float64Array;
}

export class Trainer {
  readonly weights: Float32Array;
  private readonly layers: Layer[];
  private readonly gradients: Float64Array;
  private readonly inputs: { train: Float64Array[]; test: Float64Array[] };
  private readonly random: () => number;
  private readonly order: Uint32Array;
  epoch = 0;

  constructor(
    readonly form: Form,
    private readonly train: readonly Row[],
    private readonly test: readonly Row[],
    seed: number,
    start: ArrayLike<number> | null = null,
    private readonly shuffled = true,
  ) {
    this.weights = start ? Float32Array.from(start) : initialWeights(form, seed);
    this.gradients = new Float64Array(this.weights.length);
    this.random = randomOf(seed + 1);
    this.order = Uint32Array.from(train.keys());
    this.inputs = { train: train.map((row) => inputsOf(form, row.x, row.y)), test: test.map((row) => inputsOf(form, row.x, row.y)) };
    let before = form.features.length;
    let at = 0;
    this.layers = sizesOf(form).map((size) => {
      const layer = { before, size, at, sums: new Float64Array(size), outputs: new Float64Array(size), slopes: new Float64Array(size) };
      at += (before + 1) * size;
      before = size;
      return layer;
    });
  }

  /** One pass over the training rows. The training loss is the mean over its batches, while the weights move. */
  pass(rate: number, batch: number, penalty: Penalty): Losses {
    if (this.shuffled) this.shuffle();
    const count = this.train.length;
    let sum = 0;
    for (let start = 0; start < count; start += batch) {
      const end = Math.min(count, start + batch);
      this.gradients.fill(0);
      const before = this.penaltyOf(penalty);
      let loss = 0;
      for (let place = start; place < end; place += 1) {
        const row = this.order[place] ?? 0;
        loss += this.learn(this.inputs.train[row] as Float64Array, this.train[row]?.target ?? 0);
      }
      sum += loss + before * (end - start);
      this.step(rate, end - start, penalty);
    }
    this.epoch += 1;
    return { train: sum / Math.max(1, count), test: this.testLoss(penalty) };
  }

  testLoss(penalty: Penalty): number {
    const sum = this.test.reduce((all, row, place) => all + lossOf(this.form.output, this.forward(this.inputs.test[place] as Float64Array), row.target), 0);
    return this.test.length > 0 ? sum / this.test.length + this.penaltyOf(penalty) : Number.NaN;
  }

  /** The output's weighted sum for one row; the layers keep theirs. */
  private forward(inputs: Float64Array): number {
    let values = inputs;
    const last = this.layers.length - 1;
    let sum = 0;
    for (let index = 0; index <= last; index += 1) {
      const layer = this.layers[index] as Layer;
      const kind = index === last ? this.form.output : this.form.activation;
      for (let to = 0; to < layer.size; to += 1) {
        sum = this.weights[layer.at + layer.before * layer.size + to] as number;
        for (let from = 0; from < layer.before; from += 1) sum += (this.weights[layer.at + from * layer.size + to] as number) * (values[from] as number);
        layer.sums[to] = sum;
        layer.outputs[to] = squash(kind, sum);
      }
      values = layer.outputs;
    }
    return sum;
  }

  /** Adds one row's gradients; returns its loss. */
  private learn(inputs: Float64Array, target: number): number {
    const z = this.forward(inputs);
    const last = this.layers.length - 1;
    (this.layers[last] as Layer).slopes[0] = lossSlope(this.form.output, z, target);
    for (let index = last; index >= 0; index -= 1) {
      const layer = this.layers[index] as Layer;
      const below = index > 0 ? (this.layers[index - 1] as Layer) : null;
      const values = below?.outputs ?? inputs;
      for (let from = 0; from < layer.before; from += 1) {
        let back = 0;
        for (let to = 0; to < layer.size; to += 1) {
          const place = layer.at + from * layer.size + to;
          const delta = layer.slopes[to] as number;
          this.gradients[place] = (this.gradients[place] as number) + delta * (values[from] as number);
          back += delta * (this.weights[place] as number);
        }
        if (below) below.slopes[from] = back * slope(this.form.activation, below.sums[from] as number, below.outputs[from] as number);
      }
      const biases = layer.at + layer.before * layer.size;
      for (let to = 0; to < layer.size; to += 1) this.gradients[biases + to] = (this.gradients[biases + to] as number) + (layer.slopes[to] as number);
    }
    return lossOf(this.form.output, z, target);
  }

  /** SGD's update with the mean gradient of a batch. As in a run, the kernels of hidden layers are penalized. */
  private step(rate: number, rows: number, { kind, strength }: Penalty): void {
    const last = this.layers.length - 1;
    this.layers.forEach((layer, index) => {
      const biases = layer.at + layer.before * layer.size;
      for (let place = layer.at; place < biases + layer.size; place += 1) {
        const weight = this.weights[place] as number;
        let gradient = (this.gradients[place] as number) / rows;
        if (index < last && place < biases && kind !== "none") gradient += kind === "L1" ? strength * Math.sign(weight) : 2 * strength * weight;
        this.weights[place] = weight - rate * gradient;
      }
    });
  }

  private penaltyOf({ kind, strength }: Penalty): number {
    if (kind === "none" || strength === 0) return 0;
    let sum = 0;
    for (const layer of this.layers.slice(0, -1)) {
      for (let place = layer.at; place < layer.at + layer.before * layer.size; place += 1) {
        const weight = this.weights[place] as number;
        sum += kind === "L1" ? Math.abs(weight) : weight * weight;
      }
    }
    return strength * sum;
  }

  private shuffle(): void {
    for (let at = this.order.length - 1; at > 0; at -= 1) {
      const other = Math.floor(this.random() * (at + 1));
      const kept = this.order[at] as number;
      this.order[at] = this.order[other] as number;
      this.order[other] = kept;
    }
  }
}
