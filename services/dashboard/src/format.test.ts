import { describe, expect, it } from "vitest";
import { number, ticks } from "./format";
import { metricName } from "./i18n/metrics";

describe("figures", () => {
  it("gives all ticks of an axis as many decimals", () => {
    expect(ticks([0.48, 0.5, 0.52])).toEqual(["0.48", "0.50", "0.52"]);
    expect(ticks([0, 0.0005, 0.001])).toEqual(["0.0000", "0.0005", "0.0010"]);
    expect(ticks([0, 2.5, 5])).toEqual(["0.0", "2.5", "5.0"]);
    expect(ticks([0, 5000, 10_000])).toEqual(["0", "5,000", "10,000"]);
    expect(ticks([1])).toEqual(["1"]);
    expect(ticks([])).toEqual([]);
  });

  it("writes small figures out while people can read them", () => {
    expect(number(9.84e-4)).toBe("0.000984");
    expect(number(9.84e-5)).toBe("9.84e-5");
  });

  it("writes metrics as people do", () => {
    expect(metricName("val_auc")).toBe("AUC (validation)");
    expect(metricName("price.mae")).toBe("price MAE");
    expect(metricName("mean_squared_error")).toBe("mean_squared_error");
  });
});
