import { parse } from "papaparse";
import { describe, expect, it } from "vitest";
import { readTruths, truthOf } from "./truths";

const buys = { name: "buys", task: "binary", labels: ["no", "yes"], units: 1 };
const amount = { name: "amount", task: "regression", labels: null, units: 1 };
const tags = { name: "tags", task: "multilabel", labels: ["a", "b|c"], units: 2 };
const read = (text: string, outputs: Parameters<typeof readTruths>[1] = [buys]) => readTruths(parse(text, { skipEmptyLines: "greedy" }).data, outputs);

describe("a table of outcomes", () => {
  it("is read whatever its separator and mark, rows without an outcome left out", () => {
    const table = read('\uFEFFPrediction_ID;note;truth\n"o-1";"x;y";yes\no-2;;\n\no-3;"a\nb";no\n');
    expect(table.problems).toEqual([]);
    expect(table.items).toEqual([
      { id: "o-1", row: 0, output: "buys", truth: "yes" },
      { id: "o-3", row: 0, output: "buys", truth: "no" },
    ]);
    expect(table.rows).toEqual([1, 3]);
  });

  it("has a column for each target, or says which one", () => {
    const wide = read("id,row,buys,amount\no-1,4,yes,\no-2,0,no,12.5\n", [buys, amount]);
    expect(wide.items.map((item) => [item.id, item.row, item.output, item.truth])).toEqual([["o-1", 4, "buys", "yes"], ["o-2", 0, "buys", "no"], ["o-2", 0, "amount", 12.5]]);
    const long = read("id\toutput\ttruth\tpredicted\tversion\no-1\tamount\t3,5\t4\t2\n", [buys, amount]);
    expect(long.items).toEqual([{ id: "o-1", row: 0, output: "amount", truth: 3.5, predicted: 4, version: 2 }]);
  });

  it("is refused with the row and the reason", () => {
    expect(read("order,truth\n1,yes\n").problems).toEqual([{ row: null, text: "truth.no.id" }]);
    expect(read("id,truth\no-1,yes\n", [buys, amount]).problems[0]?.text).toBe("truth.no.truth");
    expect(read("id,truth,predicted\no-1,yes,no\n").problems[0]?.text).toBe("truth.together");
    expect(read("id,truth\no-1,\n").problems[0]?.text).toBe("truth.empty");
    const bad = read("id,amount,row,version,predicted\no 1,1,,,\no-2,many,,,\no-3,1,-1,,\no-4,1,,2,\n", [amount]).problems;
    expect(bad.map((one) => [one.row, one.text])).toEqual([[1, "truth.bad.id"], [2, "truth.bad.number"], [3, "truth.bad.place"], [4, "truth.bad.said"]]);
  });

  it("has labels of several as they are written", () => {
    expect([truthOf(tags, "b|c"), truthOf(tags, "a; x"), truthOf(amount, ""), truthOf(buys, "1")]).toEqual([["b|c"], ["a", "x"], undefined, "1"]);
  });
});
