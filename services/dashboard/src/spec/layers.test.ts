import { describe, expect, it } from "vitest";
import { fresh, PALETTE, readEntry, readNetwork, summaryOf, writeEntry } from "./layers";

describe("layers", () => {
  it("are read in every way that a spec may write them", () => {
    expect(readEntry("Flatten")).toEqual({ cls: "Flatten", args: {}, beside: {} });
    expect(readEntry({ Dropout: 0.2 })?.args).toEqual({ rate: 0.2 });
    expect(readEntry({ Dense: { units: 3 }, name: "deep", inputs: ["a"] })).toEqual({
      cls: "Dense",
      args: { units: 3 },
      beside: { name: "deep", inputs: ["a"] },
    });
    expect(readEntry({ class_name: "Dense", config: { units: 3 } })?.args).toEqual({ units: 3 });
    expect(readEntry({ Dense: {}, Dropout: {} })).toBeNull();
    expect(readEntry(3)).toBeNull();
  });

  it("are written short, and read back the same", () => {
    expect(writeEntry({ cls: "Dropout", args: { rate: 0.5 }, beside: {} })).toEqual({ Dropout: 0.5 });
    expect(writeEntry({ cls: "Flatten", args: {}, beside: {} })).toBe("Flatten");
    for (const cls of PALETTE.flatMap((group) => group.names)) {
      const entry = fresh(cls);
      expect(readEntry(writeEntry(entry))).toEqual(entry);
    }
  });

  it("of Keras's own JSON are left to the text", () => {
    expect(readNetwork({ class_name: "Sequential" })).toBeNull();
    expect(readNetwork([])).toEqual([]);
    expect(readNetwork(undefined)).toHaveLength(4); // two Dense layers, each with its Dropout
  });

  it("tell themselves in a line", () => {
    expect(summaryOf({ cls: "Dense", args: { units: 8, activation: "relu", kernel_regularizer: { L2: 0.01 } }, beside: {} })).toBe(
      "8 · relu · kernel_regularizer L2 0.01",
    );
  });
});
