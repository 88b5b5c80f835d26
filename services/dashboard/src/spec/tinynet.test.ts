import { describe, expect, it } from "vitest";
import { countOf, placeOf, Plane, toned, unflatten, type Form } from "./tinynet";

const FORM: Form = { features: ["x1", "x2"], layers: [2], activation: "tanh", output: "sigmoid" };
// From x1 and x2 to two units, their biases, then the output's.
const WEIGHTS = [1, 2, 3, 4, 0.5, -0.5, 1, -1, 0.25];

describe("a small network", () => {
  it("keeps every weight at its place", () => {
    expect(countOf(FORM)).toBe(9);
    expect(placeOf(FORM, 0, 1, 0)).toBe(2);
    expect(placeOf(FORM, 0, null, 1)).toBe(5);
    expect(placeOf(FORM, 1, null, 0)).toBe(8);
    expect(unflatten(FORM, WEIGHTS)).toEqual([
      { kernel: [[1, 2], [3, 4]], bias: [0.5, -0.5] },
      { kernel: [[1], [-1]], bias: [0.25] },
    ]);
  });

  it("says over a plane what Keras would", () => {
    const plane = new Plane(2, -2, 2); // points at -1 and 1
    const [hidden, output] = plane.run(FORM, WEIGHTS);
    const unit = (x: number, y: number): [number, number] => [Math.tanh(x + 3 * y + 0.5), Math.tanh(2 * x + 4 * y - 0.5)];
    const [a, b] = unit(1, -1); // the lower right
    expect(hidden?.[0]?.[1]).toBeCloseTo(a, 5);
    expect(output?.[0]?.[1]).toBeCloseTo(1 / (1 + Math.exp(-(a - b + 0.25))), 5);
    expect([...plane.feature("x1_x2")]).toEqual([1, -1, -1, 1]);
  });

  it("is toned from -1 to 1", () => {
    expect([...toned(Float32Array.of(0, 0.5, 1), "sigmoid")]).toEqual([-1, 0, 1]);
    expect([...toned(Float32Array.of(0, 4), "relu")]).toEqual([0, 1]);
  });
});
