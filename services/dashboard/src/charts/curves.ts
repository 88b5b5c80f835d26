/** Computations on curves: alignment, smoothing, best epoch. */

import { factorOf } from "../spec/units";

export interface EpochRow {
  trial: number;
  epoch: number;
  logs: Record<string, number | null>;
}

/** Exponential smoothing with bias correction (Kingma and Ba 2015, section 3); gaps stay gaps. */
export function smooth(values: readonly (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return [...values];
  let sum = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    // A constant stays one: its last bits would fill the whole height of a chart.
    return Number((sum / mass).toPrecision(12));
  });
}

/** The index of a curve's minimum (or maximum); null for an empty one. */
export function best(values: readonly (number | null)[], mode: "min" | "max" = "min"): number | null {
  let found: number | null = null;
  values.forEach((value, index) => {
    if (value === null || !Number.isFinite(value)) return;
    const held = found === null ? null : values[found];
    if (held === null || held === undefined || (mode === "min" ? value < held : value > held)) found = index;
  });
  return found;
}

/** Keras metrics for which larger is better; for all others smaller is. */
export function modeOf(metric: string): "min" | "max" {
  return /acc|auc|precision|recall|f1|fbeta|r2|cosine|iou|true_/i.test(metric) ? "max" : "min";
}

/** Epoch rows by trial, in order of epoch; a repeated row counts once. */
export class EpochTable {
  /** `factors` multiply the metrics that they name, `val_` or not. */
  constructor(
    private readonly trials = new Map<number, Map<number, Record<string, number | null>>>(),
    private readonly factors: ReadonlyMap<string, number> = new Map(),
  ) {}

  /** Increases with every change, so readers know when to redraw. */
  version = 0;

  add(rows: readonly EpochRow[]): void {
    for (const row of rows) {
      let trial = this.trials.get(row.trial);
      if (!trial) this.trials.set(row.trial, (trial = new Map()));
      trial.set(row.epoch, row.logs);
    }
    if (rows.length > 0) this.version += 1;
  }

  clear(): void {
    this.trials.clear();
    this.version += 1;
  }

  /** The same rows, which go on to grow, with some metrics in other units. */
  scaled(factors: ReadonlyMap<string, number>): EpochTable {
    return factors.size === 0 ? this : new EpochTable(this.trials, factors);
  }

  private inUnits(logs: Record<string, number | null>): Record<string, number | null> {
    if (this.factors.size === 0) return logs;
    return Object.fromEntries(Object.entries(logs).map(([name, value]) => [name, value === null ? null : value * factorOf(this.factors, name)]));
  }

  get trialNumbers(): number[] {
    return [...this.trials.keys()].sort((a, b) => a - b);
  }

  get lastEpoch(): number {
    let last = 0;
    for (const trial of this.trials.values()) for (const epoch of trial.keys()) if (epoch > last) last = epoch;
    return last;
  }

  get metrics(): string[] {
    const names = new Set<string>();
    for (const trial of this.trials.values()) {
      const first = trial.values().next().value;
      if (first) Object.keys(first).forEach((name) => names.add(name));
    }
    return [...names];
  }

  /** One metric of one trial, from epoch 1 to `length`. */
  series(trial: number, metric: string, length: number): (number | null)[] {
    const rows = this.trials.get(trial);
    const factor = factorOf(this.factors, metric);
    return Array.from({ length }, (_, index) => {
      const value = rows?.get(index + 1)?.[metric];
      return typeof value === "number" ? value * factor : null;
    });
  }

  /** All metrics of one trial at an epoch. */
  at(trial: number, epoch: number): Record<string, number | null> {
    return this.inUnits(this.trials.get(trial)?.get(epoch) ?? {});
  }

  last(trial: number): Record<string, number | null> {
    const rows = this.trials.get(trial);
    if (!rows || rows.size === 0) return {};
    return this.inUnits(rows.get(Math.max(...rows.keys())) ?? {});
  }

  /** The trial with the best value of the metric at any epoch. */
  bestTrial(metric: string): number {
    let [winner, held] = [this.trialNumbers[0] ?? 0, Number.POSITIVE_INFINITY];
    const sign = modeOf(metric) === "min" ? 1 : -1;
    for (const [number, rows] of this.trials) {
      for (const logs of rows.values()) {
        const value = logs[metric];
        if (typeof value === "number" && sign * value < held) [winner, held] = [number, sign * value];
      }
    }
    return winner;
  }
}
