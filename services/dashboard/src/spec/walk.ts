/** One row's way through a network, number by number: forward, the loss, backward, the update. */

import { inputsOf, placeOf, sizesOf, type Form } from "./tinynet";
import { lossOf, lossSlope, slope, squash, type Penalty, type Row } from "./trainer";

export interface UnitWalk {
  /** The products of the sum, one for each input. */
  terms: { weight: number; input: number; gradient: number; updated: number }[];
  bias: number;
  z: number;
  a: number;
  /** The loss's derivative by `a`, the activation's by `z`, and their product. */
  byOutput: number;
  slope: number;
  delta: number;
  updatedBias: number;
}

export interface Walk {
  inputs: number[];
  layers: UnitWalk[][];
  loss: number;
  target: number;
}

/** The walk of one row, whose update is that of a batch of this row alone. */
export function walkOf(form: Form, weights: ArrayLike<number>, row: Row, rate: number, penalty: Penalty): Walk {
  const sizes = sizesOf(form);
  const inputs = Array.from(inputsOf(form, row.x, row.y));
  const last = sizes.length - 1;
  const at = (layer: number, from: number | null, to: number) => weights[placeOf(form, layer, from, to)] ?? 0;
  const layers: UnitWalk[][] = [];
  sizes.forEach((size, layer) => {
    const values = layer === 0 ? inputs : (layers[layer - 1] ?? []).map((unit) => unit.a);
    const kind = layer === last ? form.output : form.activation;
    layers.push(
      Array.from({ length: size }, (_, to) => {
        const terms = values.map((input, from) => ({ weight: at(layer, from, to), input, gradient: 0, updated: 0 }));
        const bias = at(layer, null, to);
        const z = terms.reduce((sum, one) => sum + one.weight * one.input, bias);
        const a = squash(kind, z);
        return { terms, bias, z, a, byOutput: 0, slope: slope(kind, z, a), delta: 0, updatedBias: 0 };
      }),
    );
  });
  for (let layer = last; layer >= 0; layer -= 1) {
    (layers[layer] ?? []).forEach((unit, to) => {
      if (layer === last) {
        unit.delta = lossSlope(form.output, unit.z, row.target);
        // With cross-entropy after a sigmoid, the two factors multiply to the difference of probability and target.
        unit.byOutput = form.output === "sigmoid" ? (unit.a - row.target) / Math.max(1e-12, unit.a * (1 - unit.a)) : unit.delta;
      } else {
        unit.byOutput = (layers[layer + 1] ?? []).reduce((sum, next) => sum + next.delta * (next.terms[to]?.weight ?? 0), 0);
        unit.delta = unit.byOutput * unit.slope;
      }
      for (const term of unit.terms) {
        const extra = layer === last || penalty.kind === "none" ? 0 : penalty.kind === "L1" ? penalty.strength * Math.sign(term.weight) : 2 * penalty.strength * term.weight;
        term.gradient = unit.delta * term.input + extra;
        term.updated = term.weight - rate * term.gradient;
      }
      unit.updatedBias = unit.bias - rate * unit.delta;
    });
  }
  return { inputs, layers, loss: lossOf(form.output, layers[last]?.[0]?.z ?? 0, row.target), target: row.target };
}

/** All weights after the update, flat, in the network's order. */
export const updatedOf = ({ layers }: Walk): number[] =>
  layers.flatMap((units) => [...(units[0]?.terms ?? []).flatMap((_, from) => units.map((unit) => unit.terms[from]?.updated ?? 0)), ...units.map((unit) => unit.updatedBias)]);
