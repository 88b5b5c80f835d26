import { describe, expect, it } from "vitest";
import type { Column, DatasetDetail } from "../api/types";
import { changeOf } from "./versions";

const column = (name: string, more: Partial<Column> = {}) => ({ name, kind: "numeric", missing: 0, distinct: 3, ...more }) as Column;
const table = (rows: number, ...columns: Column[]) => ({ rows, columns }) as DatasetDetail;

describe("versions of a table", () => {
  it("says which columns came, went and changed", () => {
    const before = table(10, column("a", { min: 1, max: 2, mean: 1.5 }), column("b"), column("gone"));
    const after = table(14, column("b", { kind: "categorical", missing: 2 }), column("a", { min: 1, max: 5, mean: 2 }), column("new"));
    expect(changeOf(before, after)).toEqual({
      rows: 4,
      reordered: true,
      columns: [
        { column: "b", what: "kind", before: "numeric", after: "categorical" },
        { column: "b", what: "missing", before: 0, after: 2 },
        { column: "a", what: "range", before: "1 – 2", after: "1 – 5" },
        { column: "a", what: "mean", before: 1.5, after: 2 },
        { column: "new", what: "added" },
        { column: "gone", what: "removed" },
      ],
    });
  });

  it("finds nothing between equal versions", () => {
    expect(changeOf(table(3, column("a")), table(3, column("a")))).toEqual({ rows: 0, reordered: false, columns: [] });
  });
});
