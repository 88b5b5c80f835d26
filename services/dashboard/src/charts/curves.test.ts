import { describe, expect, it } from "vitest";
import { best, EpochTable, modeOf, smooth } from "./curves";

describe("curves", () => {
  it("smooth a constant to itself, from the first point on", () => {
    expect(smooth([2, 2, 2], 0.9).map((value) => Number(value?.toFixed(9)))).toEqual([2, 2, 2]);
  });

  it("keep gaps, and are raw at weight 0", () => {
    expect(smooth([1, null, 3], 0.5)[1]).toBeNull();
    expect(smooth([1, null, 3], 0)).toEqual([1, null, 3]);
  });

  it("turn at their lowest point, the first of several", () => {
    expect(best([3, 1, 1, 2])).toBe(1);
    expect(best([null, 5, null, 9], "max")).toBe(3);
    expect(best([null])).toBeNull();
  });

  it("know which metrics grow", () => {
    expect(["val_accuracy", "auc", "r2_score"].map(modeOf)).toEqual(["max", "max", "max"]);
    expect(["loss", "val_loss", "mae", "root_mean_squared_error"].map(modeOf)).toEqual(["min", "min", "min", "min"]);
  });

  it("hold each epoch once, whatever order it comes in", () => {
    const table = new EpochTable();
    table.add([
      { trial: 0, epoch: 2, logs: { loss: 1 } },
      { trial: 0, epoch: 1, logs: { loss: 2 } },
      { trial: 1, epoch: 1, logs: { loss: 0.5 } },
    ]);
    table.add([{ trial: 0, epoch: 2, logs: { loss: 1 } }]);
    expect(table.series(0, "loss", 3)).toEqual([2, 1, null]);
    expect(table.bestTrial("loss")).toBe(1);
    expect(table.lastEpoch).toBe(2);
    expect(table.last(0)).toEqual({ loss: 1 });
  });
});

it("a smoothed constant is that constant", () => {
  const constant = Array.from({ length: 50 }, () => 1e-4);
  expect(smooth(constant, 0.9)).toEqual(constant);
});
