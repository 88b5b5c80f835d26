/** The playground's sample as a dataset on the server, and its rows for the plot. */

import { useEffect, useState } from "react";
import { get, seg } from "../api/client";
import { makeSample } from "../api/datasets";
import type { DatasetInfo, RowsPage } from "../api/types";
import type { Point } from "../charts/HeatMap";
import type { Controls } from "./playground";

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

interface Drawn extends Point {
  draw: number;
}

export interface Points {
  dataset: DatasetInfo | null;
  train: readonly Point[];
  test: readonly Point[];
  error: unknown;
}

export function usePoints({ sample, noise, seed, share }: Controls): Points {
  const [state, setState] = useState<{ dataset: DatasetInfo | null; all: readonly Drawn[]; error: unknown }>({ dataset: null, all: [], error: null });
  useEffect(() => {
    let stale = false;
    const load = async () => {
      const dataset = await makeSample({ sample: SERVER[sample], noise, seed, derived: true, name: `playground-${sample}` });
      const all = await pointsOf(`${dataset.name}@${dataset.version}`);
      if (!stale) setState({ dataset, all, error: null });
    };
    load().catch((error: unknown) => {
      if (!stale) setState((old) => ({ ...old, error }));
    });
    return () => {
      stale = true;
    };
  }, [sample, noise, seed]);
  const { train, test } = divided(state.all, share);
  return { dataset: state.dataset, train, test, error: state.error };
}

async function pointsOf(ref: string): Promise<Drawn[]> {
  const points: Drawn[] = [];
  let cursor: string | null = null;
  do {
    const page: RowsPage = await get<RowsPage>(`/api/v1/datasets/${seg(ref)}/rows`, { limit: 1000, cursor });
    const [x = 0, y = 0, value = 0, draw = 0] = ["x1", "x2", "label", "draw"].map((name) => page.columns.indexOf(name));
    points.push(...page.rows.map((row): Drawn => ({ x: Number(row[x]), y: Number(row[y]), value: Number(row[value]), draw: Number(row[draw]) })));
    cursor = page.next_cursor ?? null;
  } while (cursor !== null);
  return points;
}

/** Split like the spec does: the rows with the smallest `draw` train. */
function divided(all: readonly Drawn[], share: number): { train: Point[]; test: Point[] } {
  const ordered = [...all].sort((a, b) => a.draw - b.draw);
  const held = Math.round((ordered.length * (100 - share)) / 100);
  const part = Math.min(1, MOST_DRAWN / Math.max(1, ordered.length));
  const some = (points: readonly Drawn[]) => points.slice(0, Math.ceil(points.length * part));
  return { train: some(ordered.slice(0, ordered.length - held)), test: some(ordered.slice(ordered.length - held)).map((point) => ({ ...point, hollow: true })) };
}
