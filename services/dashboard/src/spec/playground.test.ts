import { describe, expect, it } from "vitest";
import { changed, DEFAULT_VIEW, DEFAULTS, readControls, readView, specOf, writeControls } from "./playground";

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
    expect(spec.split).toEqual({ time: { by: "draw", validation: 0.5, test: 0 } });
  });

  it("keeps edited weights in the address, and trains from them", () => {
    const start = Array.from({ length: 25 }, (_, at) => at / 8 - 1);
    const edited = changed(DEFAULTS, { start });
    expect(readControls(writeControls(edited)).start).toEqual(start);
    const { network } = specOf(edited, "circle@1") as { network: Record<string, Record<string, unknown>>[] };
    expect(network).toHaveLength(3);
    expect(network[2]).toEqual({
      Dense: { units: 1, activation: "sigmoid", kernel_initializer: { Constant: { value: [[1.75], [1.875]] } }, bias_initializer: { Constant: { value: [2] } } },
      output: true,
    });
    expect(changed(edited, { layers: [3] }).start).toEqual([]);
    expect(readControls(new URLSearchParams("start=1_2_3")).start).toEqual([]);
  });

  it("keeps its features, what is shown and what is hidden in the address", () => {
    const controls = { ...DEFAULTS, features: ["x1", "sin_x2"] as const };
    const view = { ...DEFAULT_VIEW, test: true, hide: ["noise", "rate"] as const };
    const query = writeControls(controls, view);
    expect(query.toString()).toBe("features=x1-sin_x2&test=1&hide=noise-rate");
    expect(readControls(query)).toEqual(controls);
    expect(readView(query)).toEqual(view);
  });

  it("keeps a table of one's own in the address", () => {
    const own = { ref: "iris@1", x: "a, b", y: "c-d", target: "z", regression: true };
    expect(readControls(writeControls({ ...DEFAULTS, own })).own).toEqual(own);
    expect(readControls(new URLSearchParams("own=[1,2]")).own).toBeNull();
    expect(specOf({ ...DEFAULTS, own }, own.ref)).toMatchObject({ dataset: "iris@1", target: "z", features: ["a, b", "c-d"] });
  });
});
