/** The learning half of the playground: it trains and computes what is drawn, away from the page's thread. */

import { Plane, type Form } from "./tinynet";
import { Trainer, type Losses, type Penalty, type Row } from "./trainer";

/** A new network; all that was trained before is forgotten. */
export interface Begin {
  kind: "begin";
  form: Form;
  train: readonly Row[];
  test: readonly Row[];
  seed: number;
  start: readonly number[] | null;
}

export interface Train {
  kind: "train";
  /** The network meant, so that late answers about an earlier one are told apart. */
  id: number;
  epochs: number;
  rate: number;
  batch: number;
  penalty: Penalty;
}

export type Order = (Begin & { id: number }) | Train;

/** What was trained: at least one epoch, and at most as many as asked for. */
export interface Answer {
  id: number;
  losses: Losses[];
  /** After each of these epochs, one behind the other. */
  weights: Float32Array;
  /** Every unit's output on the coarse plane after the last of them, one behind the other. */
  maps: Float32Array;
}

/** The plane on which a network is drawn while it plays. */
export const COARSE = new Plane(50, -6, 6);
const MOST_MS = 12; // then an answer is due, so that the page stays alive

export class Learner {
  private trainer: Trainer | null = null;
  private id = -1;

  obey(order: Order): Answer | null {
    if (order.kind === "begin") {
      const { form, train, test, seed, start } = order;
      this.trainer = new Trainer(form, train, test, seed, start);
      this.id = order.id;
      return null;
    }
    return this.trainer && order.id === this.id ? this.train(this.trainer, order) : null;
  }

  private train(trainer: Trainer, { id, epochs, rate, batch, penalty }: Train): Answer {
    const started = performance.now();
    const losses: Losses[] = [];
    const kept: Float32Array[] = [];
    while (losses.length < epochs && (losses.length === 0 || performance.now() - started < MOST_MS)) {
      losses.push(trainer.pass(rate, batch, penalty));
      kept.push(trainer.weights.slice());
    }
    return { id, losses, weights: joined(kept), maps: joined(COARSE.run(trainer.form, trainer.weights).flat()) };
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const size = parts[0]?.length ?? 0;
  const all = new Float32Array(size * parts.length);
  parts.forEach((part, at) => all.set(part, at * size));
  return all;
}
