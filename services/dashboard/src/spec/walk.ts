/** One row's way through a network, number by number: forward, the loss, backward, the update. */

import { inputsOf, unflatten, type Form, type Squash } from "./tinynet";
import { slope, squash, type Penalty, type Row } from "./trainer";

/** Between units that are not the output's, only the playground's activations; a softmax is the output's alone. */
export type Activation = Squash | "softmax";

export interface NetLayer {
  activation: Activation;
  kernel: readonly (readonly number[])[];
  bias: readonly number[];
  /** The penalty of its kernel. */
  l1: number;
  l2: number;
}

/** A network and its loss: cross-entropy of a sigmoid or a softmax, or the mean of squared errors. */
export interface Net {
  layers: readonly NetLayer[];
  loss: "binary" | "categorical" | "squared";
}

export interface UnitWalk {
  /** The products of the sum, one for each input. */
  terms: { weight: number; input: number; gradient: number; updated: number }[];
  bias: number;
  z: number;
  a: number;
  /** The loss's derivative by `a`, the activation's by `z`, and their product. A softmax has the product alone. */
  byOutput: number;
  slope: number;
  delta: number;
  updatedBias: number;
}

export interface Walk {
  inputs: readonly number[];
  layers: UnitWalk[][];
  loss: number;
  target: readonly number[];
}

/** The playground's network, with the penalty on its hidden layers. */
export function netOf(form: Form, weights: ArrayLike<number>, penalty: Penalty): Net {
  const layers = unflatten(form, weights).map(({ kernel, bias }, place, all) => {
    const isOutput = place === all.length - 1;
    const strength = isOutput ? 0 : penalty.strength;
    return { activation: isOutput ? form.output : form.activation, kernel, bias, l1: penalty.kind === "L1" ? strength : 0, l2: penalty.kind === "L2" ? strength : 0 };
  });
  return { layers, loss: form.output === "sigmoid" ? "binary" : "squared" };
}

/** The walk of one row, whose update is that of a batch of this row alone. */
export function walkOf(net: Net, inputs: readonly number[], target: readonly number[], rate: number): Walk {
  const layers: UnitWalk[][] = [];
  let values = inputs;
  for (const layer of net.layers) {
    const sums = layer.bias.map((bias, to) => values.reduce((sum, input, from) => sum + (layer.kernel[from]?.[to] ?? 0) * input, bias));
    const outputs = activate(layer.activation, sums);
    const before = values;
    layers.push(
      sums.map((z, to) => {
        const terms = before.map((input, from) => ({ weight: layer.kernel[from]?.[to] ?? 0, input, gradient: 0, updated: 0 }));
        const a = outputs[to] ?? 0;
        return { terms, bias: layer.bias[to] ?? 0, z, a, byOutput: 0, slope: layer.activation === "softmax" ? 1 : slope(layer.activation, z, a), delta: 0, updatedBias: 0 };
      }),
    );
    values = outputs;
  }
  for (let place = layers.length - 1; place >= 0; place -= 1) {
    const { l1, l2 } = net.layers[place] as NetLayer;
    (layers[place] ?? []).forEach((unit, to) => {
      if (place === layers.length - 1) fromLoss(net.loss, unit, target[to] ?? 0, target.length);
      else {
        unit.byOutput = (layers[place + 1] ?? []).reduce((sum, next) => sum + next.delta * (next.terms[to]?.weight ?? 0), 0);
        unit.delta = unit.byOutput * unit.slope;
      }
      for (const term of unit.terms) {
        term.gradient = unit.delta * term.input + l1 * Math.sign(term.weight) + 2 * l2 * term.weight;
        term.updated = term.weight - rate * term.gradient;
      }
      unit.updatedBias = unit.bias - rate * unit.delta;
    });
  }
  return { inputs, layers, loss: lossOf(net.loss, layers.at(-1) ?? [], target), target };
}

function activate(activation: Activation, sums: readonly number[]): number[] {
  if (activation !== "softmax") return sums.map((z) => squash(activation, z));
  const most = Math.max(...sums);
  const powers = sums.map((z) => Math.exp(z - most));
  const total = powers.reduce((sum, one) => sum + one, 0);
  return powers.map((one) => one / total);
}

/** The derivatives of a unit of the output. Cross-entropy with its activation: the difference of probability and target. */
function fromLoss(loss: Net["loss"], unit: UnitWalk, target: number, units: number): void {
  unit.delta = loss === "squared" ? (2 * (unit.a - target)) / units : unit.a - target;
  unit.byOutput = loss === "binary" ? unit.delta / Math.max(1e-12, unit.a * (1 - unit.a)) : unit.delta;
}

function lossOf(loss: Net["loss"], output: readonly UnitWalk[], target: readonly number[]): number {
  const terms = output.map(({ z, a }, place) => {
    const wanted = target[place] ?? 0;
    if (loss === "squared") return (a - wanted) ** 2 / output.length;
    if (loss === "binary") return Math.max(z, 0) - z * wanted + Math.log1p(Math.exp(-Math.abs(z))); // from the logit
    return wanted === 0 ? 0 : -wanted * Math.log(Math.max(a, 1e-300));
  });
  return terms.reduce((sum, one) => sum + one, 0);
}

/** The playground's walk of a point. */
export const walkOfPoint = (form: Form, weights: ArrayLike<number>, row: Row, rate: number, penalty: Penalty): Walk =>
  walkOf(netOf(form, weights, penalty), Array.from(inputsOf(form, row.x, row.y)), [row.target], rate);

/** All weights after the update, flat, in the network's order. */
export const updatedOf = ({ layers }: Walk): number[] =>
  layers.flatMap((units) => [...(units[0]?.terms ?? []).flatMap((_, from) => units.map((unit) => unit.terms[from]?.updated ?? 0)), ...units.map((unit) => unit.updatedBias)]);
