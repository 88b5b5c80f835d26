import { describe, expect, it } from "vitest";
import type { Manifest } from "../api/models";
import { fieldsOf, positionOf, readPrediction, requests, rowOf, timeText } from "./prediction";

const manifest = {
  task: "binary",
  encoder: { columns: [{ name: "gre", kind: "numeric" }, { name: "rank", kind: "categorical" }, { name: "day", kind: "datetime" }] },
  outputs: [{ name: "admit", task: "binary", labels: ["no", "yes"], units: 1 }],
  training_distribution: {
    gre: { kind: "numeric", missing: 0, edges: [220, 580, 800], shares: [0.5, 0.5] },
    rank: { kind: "categorical", missing: 0, frequencies: { "1": 0.2, "2": 0.8 } },
    day: { kind: "numeric", missing: 0, edges: [0, 86400, 172800], shares: [0.5, 0.5] },
  },
} as unknown as Manifest;

describe("a model's form", () => {
  it("begins with a typical row", () => {
    expect(fieldsOf(manifest).map((field) => field.typical)).toEqual(["580", "2", "1970-01-02T00:00:00Z"]);
    const whole = { ...manifest, training_distribution: { gre: { kind: "numeric", missing: 0, edges: [0, 3.5, 8], shares: [0.5, 0.5], median: 1 } } };
    expect(fieldsOf(whole as unknown as Manifest)[0]?.typical).toBe("1"); // a number that rows have
  });

  it("has a column with two encodings once", () => {
    const twice = { ...manifest, encoder: { columns: manifest.encoder.columns.flatMap((column) => [column, column]) } };
    expect(fieldsOf(twice).map((field) => field.name)).toEqual(["gre", "rank", "day"]);
  });

  it("writes a time as the server reads it", () => {
    const fields = fieldsOf(manifest);
    expect(rowOf(fields, { gre: "600", rank: "1", day: timeText(90061.4) })).toMatchObject({ day: "1970-01-02T01:01:01Z" });
    expect(positionOf("datetime", timeText(90061))).toBe(90061); // where the slider was left
  });

  it("finds the place of a number and of a time", () => {
    expect(positionOf("datetime", "1970-01-02T00:00:00Z")).toBe(86400);
    expect(positionOf("numeric", "3.5")).toBe(3.5);
    expect([positionOf("numeric", ""), positionOf("datetime", "soon")]).toEqual([null, null]);
  });

  it("sends numbers as numbers, labels as text, nothing as null", () => {
    const fields = fieldsOf(manifest);
    expect(rowOf(fields, { gre: "600", rank: "1", day: "" })).toEqual({ gre: 600, rank: "1", day: null });
    expect(rowOf(fields, { gre: "six", rank: "001" })).toEqual({ gre: "six", rank: "001", day: null });
  });

  it("reads one output, several, and labels", () => {
    expect(readPrediction(manifest, 0.25)[0]).toMatchObject({ answer: "no", scores: [{ label: "no", value: 0.75 }, { label: "yes", value: 0.25 }] });
    expect(readPrediction(manifest, [0.9])[0]?.answer).toBe("yes");
    const several = { ...manifest, outputs: [{ name: "a", task: "regression", labels: null, units: 1 }, { name: "b", task: "multiclass", labels: ["x", "y"], units: 2 }] };
    expect(readPrediction(several as Manifest, { a: [3], b: [0.1, 0.9] }).map((said) => said.answer)).toEqual(["3", "y"]);
  });

  it("writes requests that quotes cannot break", () => {
    const { curl, python, javascript } = requests("http://h", "/v1/models/m:predict", { "it's": 'a "b" \\ c' });
    for (const text of [curl, python, javascript]) expect(text.match(/FITSERVE_\w+/g)).toEqual(["FITSERVE_API_KEY"]); // as the client reads it
    expect(curl).toContain("it'\\''s");
    expect(python).toContain('\\"it\'s\\"');
    expect(javascript).toContain('"it\'s": "a \\"b\\" \\\\ c"');
  });
});
