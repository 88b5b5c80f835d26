/** A network's output over a plane of two columns at an epoch of its training. */

import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { ApiError, get, seg } from "./client";
import type { SurfaceInfo } from "./types";

export interface Unit {
  layer: string;
  unit: number;
  grid: number[][];
}

export interface SurfaceAxis {
  column: string;
  range: [number, number];
  /** The labels of a categorical axis, the lowest first; null for a numeric one. */
  labels: string[] | null;
}

export interface Surface {
  x: SurfaceAxis;
  y: SurfaceAxis;
  epoch: number;
  /** The columns that can be an axis. */
  axes: string[];
  /** The recorded epochs, for which a surface can be drawn. */
  epochs: number[];
  /** Rows from the lowest y up, of the output: the positive label's probability, or a number. */
  grid: number[][];
  /** The label whose probability it is; null for a number. */
  label: string | null;
  labels: string[] | null;
  units: Unit[];
}

export interface SurfaceRequest {
  x?: string;
  y?: string;
  epoch?: number;
  points?: number;
  units?: boolean;
  /** The plane's edges; by default the range of the training rows. */
  within?: { x: readonly [number, number]; y: readonly [number, number] };
}

/** Numeric axes by their ends, categorical ones by position. */
function rangeOf(values: readonly unknown[]): [number, number] {
  const [first, last] = [values[0], values.at(-1)];
  return typeof first === "number" && typeof last === "number" ? [first, last] : [0, Math.max(1, values.length - 1)];
}

const axisOf = ({ column, values }: { column: string; values: unknown[] }): SurfaceAxis => ({
  column,
  range: rangeOf(values),
  labels: values.every((value) => typeof value === "number") ? null : values.map(String),
});

const numbersOf = (grid: readonly (readonly (number | null)[])[]): number[][] => grid.map((row) => row.map((value) => value ?? Number.NaN));

export function readSurface(answer: SurfaceInfo): Surface {
  return {
    x: axisOf(answer.x),
    y: axisOf(answer.y),
    epoch: answer.epoch,
    epochs: answer.epochs,
    axes: answer.axes,
    grid: numbersOf(answer.values),
    label: answer.label,
    labels: answer.labels,
    units: (answer.units ?? []).map((unit) => ({ layer: unit.layer, unit: unit.unit, grid: numbersOf(unit.grid) })),
  };
}

export async function fetchSurface(run: string, request: SurfaceRequest, signal?: AbortSignal): Promise<Surface | null> {
  try {
    const { units, within, ...rest } = request;
    const edges = within ? { x_low: within.x[0], x_high: within.x[1], y_low: within.y[0], y_high: within.y[1] } : {};
    return readSurface(await get<SurfaceInfo>(`/api/v1/runs/${seg(run)}/surface`, { ...rest, ...edges, ...(units && { units: true }) }, signal));
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 409)) return null;
    throw error;
  }
}

export const useSurface = (run: string, request: SurfaceRequest, enabled: boolean): UseQueryResult<Surface | null> =>
  useQuery({
    queryKey: ["insight", run, "surface", request],
    queryFn: ({ signal }) => fetchSurface(run, request, signal),
    enabled,
    staleTime: 60_000,
    placeholderData: (before) => before,
  });

/** Scale grids to -1..1 for colours: a probability around one half, a number around its midpoint. */
export function centred(grid: readonly (readonly number[])[], share: boolean): number[][] {
  if (share) return grid.map((row) => row.map((value) => 2 * value - 1));
  const all = grid.flat().filter(Number.isFinite);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const reach = Math.max(1e-9, Math.max(Math.abs(low), Math.abs(high)));
  if (low < 0 && high > 0) return grid.map((row) => row.map((value) => value / reach));
  const [middle, half] = [(low + high) / 2, Math.max(1e-9, (high - low) / 2)];
  return grid.map((row) => row.map((value) => (value - middle) / half));
}

/** Interpolate between two surfaces: `share` 0 is the first, 1 the second. */
export const blend = (from: readonly (readonly number[])[], to: readonly (readonly number[])[], share: number): number[][] =>
  from.map((row, y) => row.map((value, x) => value + share * ((to[y]?.[x] ?? value) - value)));
