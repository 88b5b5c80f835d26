/** Rates and latencies between two readings of the counters. */

import type { Traffic } from "../api/types";

export interface Pace {
  /** Requests per second. */
  rate: number;
  /** Seconds; null if there were no requests. */
  p50: number | null;
  p99: number | null;
}

/** Null if a counter went down, because a process restarted or another one answered. */
export function pace(before: Traffic, after: Traffic): Pace | null {
  const seconds = (Date.parse(after.at) - Date.parse(before.at)) / 1000;
  const [old, now] = [counts(before), counts(after)];
  const buckets = [...now.buckets].map(([le, count]) => ({ le, count: count - (old.buckets.get(le) ?? 0) })).sort((a, b) => a.le - b.le);
  const requests = now.requests - old.requests;
  if (seconds <= 0 || requests < 0 || buckets.some((bucket) => bucket.count < 0)) return null;
  return { rate: requests / seconds, p50: quantile(buckets, 0.5), p99: quantile(buckets, 0.99) };
}

function counts(traffic: Traffic): { requests: number; buckets: Map<number, number> } {
  const buckets = new Map<number, number>();
  let requests = 0;
  for (const version of traffic.versions) {
    requests += version.requests;
    for (const { le, count } of version.buckets) {
      const edge = le ?? Number.POSITIVE_INFINITY;
      buckets.set(edge, (buckets.get(edge) ?? 0) + count);
    }
  }
  return { requests, buckets };
}

/** Like Prometheus's `histogram_quantile`: linear within a bucket, the last edge beyond it. */
export function quantile(buckets: readonly { le: number; count: number }[], share: number): number | null {
  const total = buckets.at(-1)?.count ?? 0;
  if (total === 0) return null;
  const wanted = share * total;
  let [low, below] = [0, 0];
  for (const { le, count } of buckets) {
    if (count >= wanted) return Number.isFinite(le) ? low + ((le - low) * (wanted - below)) / Math.max(1, count - below) : low;
    [low, below] = [le, count];
  }
  return low;
}
