import { describe, expect, it } from "vitest";
import { at, edit, lineOf, read, write } from "./document";

const TEXT = `# my first network
dataset: admissions
target: admit
network:
  - Dense: {units: 128, activation: relu} # wide
  - Dropout: 0.2
training:
  optimizer: Adam
  epochs: 20
`;

describe("the spec's text", () => {
  it("keeps comments when a form changes a value", () => {
    const next = edit(TEXT, ["training", "epochs"], 50);
    expect(next).toContain("# my first network");
    expect(next).toContain("# wide");
    expect(at(read(next).spec, ["training", "epochs"])).toBe(50);
  });

  it("makes room for arguments where a shorthand stood", () => {
    const next = edit(TEXT, ["training", "optimizer", "Adam", "learning_rate"], 0.01);
    expect(at(read(next).spec, ["training", "optimizer"])).toEqual({ Adam: { learning_rate: 0.01 } });
  });

  it("makes the mappings on the way", () => {
    expect(read(edit("", ["training", "early_stopping", "patience"], 5)).spec).toEqual({
      training: { early_stopping: { patience: 5 } },
    });
  });

  it("takes empty mappings away, but not an empty network", () => {
    expect(read(edit("a: 1\ntraining:\n  epochs: 2\n", ["training", "epochs"], undefined)).spec).toEqual({ a: 1 });
    expect(at(read(edit("network: [Flatten]\n", ["network"], [])).spec, ["network"])).toEqual([]);
  });

  it("says in which line YAML breaks, and leaves broken text alone", () => {
    const broken = "dataset: a\n  target: [";
    expect(read(broken).spec).toBeNull();
    expect(read(broken).problem?.line).toBeGreaterThan(0);
    expect(edit(broken, ["target"], "x")).toBe(broken);
  });

  it("refuses duplicate keys and aliases", () => {
    expect(read("a: 1\na: 2\n").problem).not.toBeNull();
    expect(read("a: &x [1]\nb: *x\n").problem).not.toBeNull();
  });

  it("finds the line of a JSON Pointer, or of the nearest that is there", () => {
    expect(lineOf(TEXT, "/network/1/Dropout")).toBe(6);
    expect(lineOf(TEXT, "/training/epochs")).toBe(9);
    expect(lineOf(TEXT, "/network/0/Dense/unit")).toBe(5);
    expect(lineOf(TEXT, "/nothing")).toBeNull();
  });

  it("writes what it reads", () => {
    const { spec } = read(TEXT);
    if (!spec) throw new Error("unreadable");
    expect(read(write(spec)).spec).toEqual(spec);
  });
});
