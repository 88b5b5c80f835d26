import { describe, expect, it } from "vitest";
import { between, DEFAULTS, readControls, specOf, writeControls } from "./playground";

describe("the playground", () => {
  it("keeps its controls in a short address", () => {
    const controls = { ...DEFAULTS, sample: "spiral" as const, layers: [8, 8, 4], rate: 0.1 };
    expect(writeControls(controls).toString()).toBe("sample=spiral&layers=8-8-4&rate=0.1");
    expect(readControls(writeControls(controls))).toEqual(controls);
    expect(writeControls(DEFAULTS).toString()).toBe("");
    expect(readControls(writeControls({ ...DEFAULTS, layers: [] })).layers).toEqual([]);
  });

  it("mends whatever an address says", () => {
    const broken = readControls(new URLSearchParams("sample=evil&noise=900&layers=99-x-3-1-1-1-1-1-1&batch=&rate=NaN&activation=exec"));
    expect(broken).toEqual({ ...DEFAULTS, noise: 50, layers: [8, 4, 3, 1, 1, 1] });
  });

  it("is a spec that anybody could send", () => {
    const spec = specOf({ ...DEFAULTS, regularizer: "L2", strength: 0.01 }, "circle@1");
    expect(spec.network).toEqual([
      { Dense: { units: 4, activation: "tanh", kernel_regularizer: { L2: 0.01 } } },
      { Dense: { units: 2, activation: "tanh", kernel_regularizer: { L2: 0.01 } } },
    ]);
    expect(spec.split).toEqual({ validation: 0.25, test: 0.25 });
  });

  it("knows between which kept epochs it stands", () => {
    expect(between([1, 2, 10], 6)).toEqual({ from: 2, to: 10, share: 0.5 });
    expect(between([1, 2, 10], 0)).toEqual({ from: 1, to: 1, share: 0 });
    expect(between([1, 2, 10], 50)).toEqual({ from: 10, to: 10, share: 0 });
    expect(between([], 3)).toBeNull();
  });
});
