import { describe, expect, it } from "vitest";
import type { ThresholdCurve } from "../api/types";
import { cheapest, costOf, countsAt, measures, nearest, steps } from "./threshold";

/** Four rows: probabilities 0.2 (no), 0.4 (yes), 0.6 (no), 0.8 (yes). */
const curve: ThresholdCurve = {
  part: "validation",
  label: "yes",
  positives: 2,
  negatives: 2,
  threshold: [0, 0.3, 0.5, 0.7, 1.0000001],
  true_positive: [2, 2, 1, 1, 0],
  false_positive: [2, 1, 1, 0, 0],
};

describe("a threshold", () => {
  it("divides the rows by their labels", () => {
    expect(steps(curve)).toBe(4);
    expect(nearest(curve, 0.68)).toBe(3);
    expect(nearest(curve, 5)).toBe(3);
    expect(countsAt(curve, 1)).toEqual({ truePositive: 2, falsePositive: 1, falseNegative: 0, trueNegative: 1 });
    expect(measures(countsAt(curve, 1))).toEqual({ precision: 2 / 3, recall: 1, f1: 0.8, accuracy: 0.75 });
    expect(measures({ truePositive: 0, falsePositive: 0, falseNegative: 0, trueNegative: 3 }).precision).toBeNull();
  });

  it("is cheapest where its errors cost least", () => {
    expect(cheapest(curve, { falsePositive: 1, falseNegative: 5 })).toBe(1);
    expect(cheapest(curve, { falsePositive: 5, falseNegative: 1 })).toBe(3);
    expect(costOf(countsAt(curve, 0), { falsePositive: 2, falseNegative: 9 })).toBe(4);
  });
});
