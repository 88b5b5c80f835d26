/** The playground's two halves below the page: the sample's points, and the short run that is played back. */

import { useEffect, useMemo, useRef, useState } from "react";
import { get, seg } from "../api/client";
import { makeSample } from "../api/datasets";
import { useLive } from "../api/live";
import { cancelRun, isLive, submitSpec, useRun } from "../api/runs";
import { fetchSurface, type Surface } from "../api/surface";
import type { DatasetInfo, RowsPage } from "../api/types";
import type { Point } from "../charts/HeatMap";
import { specOf, type Controls } from "./playground";

/** The plane that is shown, on both axes. */
export const PLANE: [number, number] = [-6, 6];

/** The server's names of the six samples. */
const SERVER: Record<Controls["sample"], string> = {
  circle: "circle",
  xor: "xor",
  gauss: "gauss",
  spiral: "spiral",
  plane: "plane",
  multi: "multi-gauss",
};
export interface Points {
  dataset: DatasetInfo | null;
  points: readonly Point[];
  error: unknown;
}

/** The sample as a dataset of the server's, and its rows for the picture. */
export function usePoints({ sample, noise, seed }: Controls): Points {
  const [state, setState] = useState<Points>({ dataset: null, points: [], error: null });
  useEffect(() => {
    let stale = false;
    const load = async () => {
      const dataset = await makeSample({ sample: SERVER[sample], noise, seed, name: `playground-${sample}` });
      const rows = await get<RowsPage>(`/api/v1/datasets/${seg(`${dataset.name}@${dataset.version}`)}/rows`, { limit: 500 });
      if (stale) return;
      const points = rows.rows.map((row): Point => ({ x: Number(row[0]), y: Number(row[1]), value: Number(row[2]) }));
      setState({ dataset, points, error: null });
    };
    load().catch((error: unknown) => {
      if (!stale) setState((old) => ({ ...old, error }));
    });
    return () => {
      stale = true;
    };
  }, [sample, noise, seed]);
  return state;
}

export interface Training {
  runId: string | null;
  live: ReturnType<typeof useLive>;
  state: string | null;
  epoch: number;
  trained: number;
  playing: boolean;
  speed: number;
  error: unknown;
  surfaces: ReadonlyMap<number, Surface>;
  play: () => void;
  pause: () => void;
  step: () => void;
  reset: () => void;
  seek: (epoch: number) => void;
  setSpeed: (speed: number) => void;
}

/**
 * Training runs ahead, the picture follows: play sends one short run, its epochs come over the event stream, and the
 * page walks through them at its own speed. Controls that change begin anew.
 */
export function useTraining(controls: Controls, dataset: DatasetInfo | null): Training {
  const spec = useMemo(() => (dataset ? specOf(controls, `${dataset.name}@${dataset.version}`) : null), [controls, dataset]);
  const key = JSON.stringify(spec);
  const [run, setRun] = useState<{ id: string; key: string } | null>(null);
  const [epoch, setEpoch] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [speed, setSpeed] = useState(20);
  const [error, setError] = useState<unknown>(null);
  const [surfaces, setSurfaces] = useState<ReadonlyMap<number, Surface>>(new Map());
  const [wanted, setWanted] = useState(false);
  const sending = useRef(false);
  const current = run?.key === key ? run.id : null;
  if (run !== null && current === null) {
    // A control has moved: what was trained is another network.
    setRun(null);
    setEpoch(0);
    setPlaying(false);
    setWanted(false);
    setSurfaces(new Map());
  }
  const detail = useRun(current ?? "");
  const state = current === null ? null : (detail.data?.state ?? "queued");
  const live = useLive(current ?? "", current !== null && (state === null || isLive({ state })));
  const trained = current === null ? 0 : live.table.lastEpoch;

  useEffect(() => {
    // The points may still be on their way when play is pressed.
    if (!wanted || spec === null || current !== null || sending.current) return;
    sending.current = true;
    submitSpec(spec)
      .then((made) => setRun({ id: made.id, key }))
      .catch((failure: unknown) => {
        setPlaying(false);
        setError(failure);
      })
      .finally(() => {
        sending.current = false;
        setWanted(false);
      });
  }, [wanted, spec, current, key]);
  const begin = () => {
    setError(null);
    if (current === null) setWanted(true);
  };

  const done = state !== null && !isLive({ state });
  const drawn = surfaces.size > 0 || (done && state !== "succeeded");
  useEffect(() => {
    // The curve grows while it trains; the walk through the epochs begins when there is a surface to show.
    if (!playing || !drawn) return undefined;
    const timer = setInterval(() => {
      setEpoch((old) => Math.min(old + 1, Math.max(old, live.table.lastEpoch)));
    }, 1000 / speed);
    return () => clearInterval(timer);
  }, [playing, drawn, speed, live.table]);
  if (playing && done && trained > 0 && epoch >= trained) setPlaying(false);

  useEffect(() => {
    if (current === null || state !== "succeeded") return undefined;
    const stop = new AbortController();
    void loadSurfaces(current, stop.signal, (surface) => setSurfaces((old) => new Map(old).set(surface.epoch, surface)));
    return () => stop.abort();
  }, [current, state]);

  return {
    runId: current,
    live,
    state,
    epoch,
    trained,
    playing,
    speed,
    error: error ?? (state === "failed" ? new Error(String(detail.data?.error?.detail ?? "failed")) : null),
    surfaces,
    play: () => {
      begin();
      setPlaying(true);
      if (done && epoch >= trained) setEpoch(0);
    },
    pause: () => setPlaying(false),
    step: () => {
      begin();
      setPlaying(false);
      setEpoch((old) => (current === null ? 1 : Math.min(old + 1, Math.max(1, trained))));
    },
    reset: () => {
      setPlaying(false);
      setEpoch(0);
      if (current !== null && state !== null && isLive({ state })) void cancelRun(current).catch(() => undefined);
    },
    seek: setEpoch,
    setSpeed,
  };
}

async function loadSurfaces(run: string, signal: AbortSignal, take: (surface: Surface) => void): Promise<void> {
  try {
    const wish = { x: "x1", y: "x2", points: 50, units: true, within: { x: PLANE, y: PLANE } };
    const last = await fetchSurface(run, wish, signal);
    if (last === null) return;
    take(last);
    for (const epoch of last.epochs) {
      if (epoch === last.epoch) continue;
      const surface = await fetchSurface(run, { ...wish, epoch }, signal);
      if (surface) take(surface);
    }
  } catch {
    // Left, or the server is away: the curves stay.
  }
}
