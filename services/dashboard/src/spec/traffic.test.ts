import { describe, expect, it } from "vitest";
import type { Traffic } from "../api/types";
import { pace, quantile } from "./traffic";

const look = (at: string, requests: number, fast: number): Traffic => ({
  model: "m",
  at,
  processes: 1,
  versions: [{ version: "1", requests, seconds: 1, rows: requests, buckets: [{ le: 0.001, count: fast }, { le: 0.01, count: requests }, { le: null, count: requests }] }],
});

describe("traffic between two looks", () => {
  it("is a rate and a latency", () => {
    const found = pace(look("2026-01-01T00:00:00Z", 100, 100), look("2026-01-01T00:00:10Z", 300, 200));
    expect(found?.rate).toBe(20);
    expect(found?.p50).toBeCloseTo(0.001, 6);
    expect(found?.p99).toBeCloseTo(0.00982, 5);
  });

  it("says nothing where nothing can be said", () => {
    expect(pace(look("2026-01-01T00:00:00Z", 100, 100), look("2026-01-01T00:00:10Z", 5, 5))).toBeNull();
    expect(pace(look("2026-01-01T00:00:00Z", 5, 5), look("2026-01-01T00:00:10Z", 5, 5))).toEqual({ rate: 0, p50: null, p99: null });
    expect(quantile([{ le: 0.1, count: 0 }, { le: Number.POSITIVE_INFINITY, count: 3 }], 0.5)).toBe(0.1);
  });
});
