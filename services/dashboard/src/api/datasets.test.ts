import { describe, expect, it } from "vitest";
import { nameOf } from "./datasets";

describe("a dataset's name", () => {
  it("comes from the file's", () => {
    expect(nameOf("Titanic (1).CSV.gz")).toBe("titanic-1");
    expect(nameOf("student_data.csv")).toBe("student_data");
    expect(nameOf("sales.2026.feather")).toBe("sales.2026");
    expect(nameOf("sales.2026")).toBe("sales.2026");
    expect(nameOf("資料.csv")).toBe("table");
    expect(nameOf("../../etc/passwd")).toBe("etc-passwd");
    expect(nameOf("a".repeat(100))).toHaveLength(63);
  });
});
