/** The playground's rows: a sample of the server's, or two columns of a table. */

import { useEffect, useMemo, useState } from "react";
import { get, seg } from "../api/client";
import { makeSample } from "../api/datasets";
import type { RowsPage } from "../api/types";
import type { Point } from "../charts/HeatMap";
import { isRegression, type Controls } from "./playground";
import { randomOf, type Row } from "./trainer";

/** The server's names of the six samples. */
const SERVER: Record<Controls["sample"], string> = {
  circle: "circle",
  xor: "xor",
  gauss: "gauss",
  spiral: "spiral",
  plane: "plane",
  multi: "multi-gauss",
};
const MOST_DRAWN = 600;
const MOST_ROWS = 2000; // of a table of one's own
const REACH = 5; // the plane's points lie within it on both axes

interface Drawn extends Point {
  draw: number;
}

interface Loaded {
  of: string;
  ref: string | null;
  all: readonly Drawn[];
  error: unknown;
}

export interface Points {
  /** The table as `name@version`. */
  ref: string | null;
  train: readonly Point[];
  test: readonly Point[];
  rows: { train: readonly Row[]; test: readonly Row[] };
  error: unknown;
}

export function usePoints(controls: Controls): Points {
  const { sample, noise, seed, share, own } = controls;
  const [state, setState] = useState<Loaded>({ of: "", ref: null, all: [], error: null });
  const of = JSON.stringify(own ? [own] : [sample, noise, seed]);
  useEffect(() => {
    let stale = false;
    const load = async (): Promise<Loaded> => {
      if (own) return { of, ref: own.ref, all: await ownPoints(own), error: null };
      const dataset = await makeSample({ sample: SERVER[sample], noise, seed, derived: true, name: `playground-${sample}` });
      const ref = `${dataset.name}@${dataset.version}`;
      return { of, ref, all: await samplePoints(ref), error: null };
    };
    load()
      .catch((error: unknown) => ({ of, ref: null, all: [], error }))
      .then((loaded) => {
        if (!stale) setState(loaded);
      })
      .catch(() => undefined);
    return () => {
      stale = true;
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- `of` holds the others
  }, [of]);
  const regression = isRegression(controls);
  const current = state.of === of;
  return useMemo(() => {
    const { train, test } = divided(state.all, share);
    const rows = (points: readonly Drawn[]): Row[] => points.map(({ x, y, value }) => ({ x, y, target: regression ? value : value > 0 ? 1 : 0 }));
    const part = Math.min(1, MOST_DRAWN / Math.max(1, state.all.length));
    const some = (points: readonly Drawn[], hollow: boolean): Point[] => points.slice(0, Math.ceil(points.length * part)).map(({ x, y, value }) => ({ x, y, value, ...(hollow && { hollow }) }));
    return {
      ref: state.ref,
      train: some(train, false),
      test: some(test, true),
      rows: current ? { train: rows(train), test: rows(test) } : { train: [], test: [] },
      error: current ? state.error : null,
    };
  }, [state, share, regression, current]);
}

async function rowsOf(ref: string, names: readonly string[], most: number): Promise<unknown[][]> {
  const rows: unknown[][] = [];
  let cursor: string | null = null;
  do {
    const page: RowsPage = await get<RowsPage>(`/api/v1/datasets/${seg(ref)}/rows`, { limit: 1000, cursor });
    const places = names.map((name) => page.columns.indexOf(name));
    rows.push(...page.rows.map((row) => places.map((place) => row[place])));
    cursor = page.next_cursor ?? null;
  } while (cursor !== null && rows.length < most);
  return rows;
}

async function samplePoints(ref: string): Promise<Drawn[]> {
  const rows = await rowsOf(ref, ["x1", "x2", "label", "draw"], Number.POSITIVE_INFINITY);
  return rows.map(([x, y, value, draw]) => ({ x: Number(x), y: Number(y), value: Number(value), draw: Number(draw) }));
}

/** Columns scaled to the plane; a target of two values as -1 and 1, another one to between them. Rows with gaps are left out. */
export async function ownPoints(own: NonNullable<Controls["own"]>): Promise<Drawn[]> {
  const rows = (await rowsOf(own.ref, [own.x, own.y, own.target], MOST_ROWS)).filter((row) => row.every((value) => value !== null && value !== undefined && value !== ""));
  const labels = [...new Set(rows.map((row) => String(row[2])))].sort();
  const targets = own.regression ? scaled(rows.map((row) => Number(row[2])), 1) : rows.map((row) => (String(row[2]) === labels[0] ? -1 : 1));
  const [x, y] = [0, 1].map((place) => scaled(rows.map((row) => Number(row[place])), REACH)) as [number[], number[]];
  const random = randomOf(0);
  return rows.map((_, at) => ({ x: x[at] ?? 0, y: y[at] ?? 0, value: targets[at] ?? 0, draw: random() }));
}

/** Values moved and scaled to lie from -reach to reach. */
function scaled(values: readonly number[], reach: number): number[] {
  const known = values.filter(Number.isFinite);
  const [low, high] = [known.reduce((least, value) => Math.min(least, value), Infinity), known.reduce((most, value) => Math.max(most, value), -Infinity)];
  return values.map((value) => (high > low && Number.isFinite(value) ? (2 * (value - low)) / (high - low) - 1 : 0) * reach);
}

/** Split like the spec does: the rows with the smallest `draw` train. */
function divided(all: readonly Drawn[], share: number): { train: Drawn[]; test: Drawn[] } {
  const ordered = [...all].sort((a, b) => a.draw - b.draw);
  const held = Math.round((ordered.length * (100 - share)) / 100);
  return { train: ordered.slice(0, ordered.length - held), test: ordered.slice(ordered.length - held) };
}
