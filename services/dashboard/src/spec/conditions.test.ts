import { expect, test } from "vitest";
import { translate, type Key } from "../i18n";
import { conditionText, sorted, type WorstSlice } from "./conditions";

const t = (key: Key, values?: Record<string, string | number>) => translate("en", key, values);

test("a condition is read as it is written", () => {
  expect(conditionText({ column: "city", equals: "cork" }, t)).toBe("city = cork");
  expect(conditionText({ column: "age", from: null, to: 30 }, t)).toBe("age < 30");
  expect(conditionText({ column: "age", from: 60, to: null }, t)).toBe("age ≥ 60");
  expect(conditionText({ column: "day", from: "2020-01-01", to: "2020-02-01" }, t)).toBe("2020-01-01 ≤ day < 2020-02-01");
  expect(conditionText({ column: "age", missing: true }, t)).toBe("age is missing");
});

test("the worst slices come first, the surest p-values too", () => {
  const of = (difference: number, p_adjusted: number) => ({ difference, p_adjusted, rows: 1, value: difference }) as WorstSlice;
  const slices = [of(1, 0.001), of(3, 0.005), of(2, 0.0001)];
  expect(sorted(slices, "difference", false).map((one) => one.difference)).toEqual([3, 2, 1]);
  expect(sorted(slices, "difference", true).map((one) => one.difference)).toEqual([1, 2, 3]);
  expect(sorted(slices, "p_adjusted", false).map((one) => one.difference)).toEqual([2, 1, 3]);
});
