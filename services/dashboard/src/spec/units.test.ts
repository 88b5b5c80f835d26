import { expect, test } from "vitest";
import { factorOf, isStandardized, unitFactors } from "./units";

test("figures of a standardized target are turned into its units", () => {
  const result = {
    metrics: { train: { loss: 0.04, mean_absolute_error: 0.1, root_mean_squared_error: 0.2 } },
    evaluation: { train: { price: { r2: 0.9, mae: 1200, rmse: 2400 } } },
  };
  const factors = unitFactors(result);
  expect(factorOf(factors, "val_mean_absolute_error")).toBeCloseTo(12_000);
  expect(factorOf(factors, "mean_squared_error")).toBeCloseTo(144_000_000);
  expect(factorOf(factors, "loss")).toBe(1);
  expect(unitFactors({ metrics: { test: { accuracy: 1 } }, evaluation: { test: { kind: { accuracy: 1 } } } }).size).toBe(0);
  expect(unitFactors(null).size).toBe(0);
});

test("of several targets, each has a scale of its own", () => {
  const metrics = { test: { a_mean_absolute_error: 0.5, b_mean_absolute_error: 2 } };
  const factors = unitFactors({ metrics, evaluation: { test: { a: { mae: 50 }, b: { mae: 2 } } } });
  expect(factorOf(factors, "a_root_mean_squared_error")).toBeCloseTo(100);
  expect(factorOf(factors, "b_mean_absolute_error")).toBe(1);
  const resolved = { target: [{ name: "a", standardize: true }, { name: "b", standardize: false }] };
  expect(isStandardized(resolved, "val_a_mean_absolute_error")).toBe(true);
  expect(isStandardized(resolved, "b_mean_absolute_error")).toBe(false);
});
