/** What a threshold does to rows whose labels are known, from the counts that the API gives for every threshold. */

import type { ThresholdCurve } from "../api/types";

export interface Costs {
  falsePositive: number;
  falseNegative: number;
}

export interface Counts {
  truePositive: number;
  falsePositive: number;
  falseNegative: number;
  trueNegative: number;
}

/** How many of a curve's thresholds are probabilities: the last one may be above 1, so that no row reaches it. */
export const steps = (curve: ThresholdCurve): number => curve.threshold.filter((threshold) => threshold <= 1).length;

/** The step whose threshold is nearest. */
export function nearest(curve: ThresholdCurve, threshold: number): number {
  let best = 0;
  for (let step = 1; step < steps(curve); step += 1) {
    if (Math.abs((curve.threshold[step] ?? 0) - threshold) < Math.abs((curve.threshold[best] ?? 0) - threshold)) best = step;
  }
  return best;
}

export function countsAt(curve: ThresholdCurve, step: number): Counts {
  const [truePositive, falsePositive] = [curve.true_positive[step] ?? 0, curve.false_positive[step] ?? 0];
  return { truePositive, falsePositive, falseNegative: curve.positives - truePositive, trueNegative: curve.negatives - falsePositive };
}

export const costOf = (counts: Counts, costs: Costs): number => counts.falsePositive * costs.falsePositive + counts.falseNegative * costs.falseNegative;

/** The step with the lowest cost; of equal ones that nearest to 0.5. */
export function cheapest(curve: ThresholdCurve, costs: Costs): number {
  let best = nearest(curve, 0.5);
  for (let step = 0; step < steps(curve); step += 1) {
    const [own, lowest] = [costOf(countsAt(curve, step), costs), costOf(countsAt(curve, best), costs)];
    const closer = Math.abs((curve.threshold[step] ?? 0) - 0.5) < Math.abs((curve.threshold[best] ?? 0) - 0.5);
    if (own < lowest || (own === lowest && closer)) best = step;
  }
  return best;
}

const share = (part: number, whole: number): number | null => (whole > 0 ? part / whole : null);

export function measures({ truePositive, falsePositive, falseNegative, trueNegative }: Counts) {
  return {
    precision: share(truePositive, truePositive + falsePositive),
    recall: share(truePositive, truePositive + falseNegative),
    f1: share(2 * truePositive, 2 * truePositive + falsePositive + falseNegative),
    accuracy: share(truePositive + trueNegative, truePositive + falsePositive + falseNegative + trueNegative),
  };
}
