import { describe, expect, it } from "vitest";
import { differences, verdict } from "./compare";

describe("comparing", () => {
  it("names the places where specs differ", () => {
    const found = differences([
      { training: { epochs: 5, seed: 0 }, network: [{ Dense: { units: 3 } }] },
      { training: { epochs: 9, seed: 0 }, network: [] },
    ]);
    expect(found).toEqual([
      { path: "/training/epochs", values: ["5", "9"] },
      { path: "/network/0/Dense/units", values: ["3", null] },
      { path: "/network", values: [null, "[]"] },
    ]);
    expect(differences([{ a: [1, {}] }, { a: [1, {}] }])).toEqual([]);
  });

  it("takes one seed for no proof", () => {
    expect(verdict([1], [0.1], "min")).toBeNull();
  });

  it("tells a difference from the noise of seeds", () => {
    expect(verdict([1, 1.01, 0.99, 1.02], [0.5, 0.51, 0.49, 0.5], "min")).toBe("better");
    expect(verdict([1, 1.01, 0.99, 1.02], [0.5, 0.51, 0.49, 0.5], "max")).toBe("worse");
    expect(verdict([1, 2, 3], [1.2, 2.1, 2.9], "min")).toBe("noise");
  });
});
