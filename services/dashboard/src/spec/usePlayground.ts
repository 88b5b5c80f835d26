/** The playground's training: one short run, whose recorded weights and losses are played back. */

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { get, seg } from "../api/client";
import { useLive } from "../api/live";
import { cancelRun, isLive, submitSpec, useRun, validate } from "../api/runs";
import type { DatasetInfo, LayerSeries, RunDetail } from "../api/types";
import { between, formOf, specOf, type Controls } from "./playground";
import { countOf, flatten, mixed } from "./tinynet";

/** The weights shown now, and the recorded epochs they are from or lie between. */
export interface Moment {
  weights: readonly number[];
  from: number;
  to: number;
}

export interface Training {
  runId: string | null;
  live: ReturnType<typeof useLive>;
  state: string | null;
  epoch: number;
  trained: number;
  playing: boolean;
  error: unknown;
  /** The network at `epoch`; null before there is one. */
  now: Moment | null;
  play: () => void;
  pause: () => void;
  step: () => void;
  reset: () => void;
  seek: (epoch: number) => void;
}

interface TrainingRequest {
  controls: Controls;
  dataset: DatasetInfo | null;
  speed: number;
  /** The run and epoch in a shared address. */
  run: string | null;
  epoch: number;
}

const POLL = 350; // ms between two looks at the weights of a run that trains

/**
 * Training runs ahead of the display. Play starts one short run, its epochs and weights arrive while it trains, and
 * the page steps through them at its own speed. Changing a control starts over.
 */
export function useTraining({ controls, dataset, speed, run: seen, epoch: seenEpoch }: TrainingRequest): Training {
  const spec = useMemo(() => (dataset ? specOf(controls, `${dataset.name}@${dataset.version}`) : null), [controls, dataset]);
  const key = canonical(spec);
  const [run, setRun] = useState<{ id: string; key: string } | null>(null);
  const [epoch, setEpoch] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [wanted, setWanted] = useState(false);
  const sending = useRef(false);
  const current = run?.key === key ? run.id : null;
  if (run !== null && current === null) {
    // A control changed, so the trained network no longer matches.
    setRun(null);
    setEpoch(0);
    setPlaying(false);
    setWanted(false);
  }
  const found = useCallback((id: string) => {
    setRun({ id, key });
    setEpoch(seenEpoch);
  }, [key, seenEpoch]);
  useSeen(seen, spec === null ? null : key, current, found);
  const detail = useRun(current ?? "");
  const state = current === null ? null : (detail.data?.state ?? "queued");
  const live = useLive(current ?? "", current !== null && (state === null || isLive({ state })));
  const trained = current === null ? 0 : live.table.lastEpoch;
  const done = state !== null && !isLive({ state });
  const { recorded, whole } = useWeights(current, done, countOf(formOf(controls)));

  useEffect(() => {
    // The points may still be loading when Play is pressed.
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

  const last = Math.max(0, ...recorded.keys());
  const drawn = last > 0;
  useEffect(() => {
    // Step no further than the weights received so far, so the display is never ahead of them.
    if (!playing || !drawn) return undefined;
    const timer = setInterval(() => setEpoch((old) => Math.min(old + 1, Math.max(old, last))), 1000 / speed);
    return () => clearInterval(timer);
  }, [playing, drawn, speed, last]);
  if (playing && whole && epoch >= last) setPlaying(false);

  const { start } = controls;
  const now = useMemo(() => momentAt(recorded, epoch, start), [recorded, epoch, start]);
  return {
    runId: current,
    live,
    state,
    epoch,
    trained,
    playing,
    error: error ?? (state === "failed" ? new Error(String(detail.data?.error?.detail ?? "failed")) : null),
    now,
    play: () => {
      begin();
      setPlaying(true);
      if (done && epoch >= last) setEpoch(0);
    },
    pause: () => setPlaying(false),
    step: () => {
      begin();
      setPlaying(false);
      setEpoch((old) => (current === null ? 1 : Math.min(old + 1, Math.max(1, last))));
    },
    reset: () => {
      setPlaying(false);
      setEpoch(0);
      if (current !== null && !done) void cancelRun(current).catch(() => undefined);
    },
    seek: setEpoch,
  };
}

/** Resume the run named in a shared address if it still matches the controls. */
function useSeen(id: string | null, key: string | null, current: string | null, take: (id: string) => void): void {
  const asked = useRef(false);
  useEffect(() => {
    if (id === null || key === null || current !== null || asked.current) return;
    asked.current = true;
    // Both sides have their defaults filled in by the server, so they compare equal.
    Promise.all([get<RunDetail>(`/api/v1/runs/${seg(id)}`), validate(key)])
      .then(([run, meant]) => {
        if (canonical(run.resolved) === canonical(meant.resolved)) take(id);
      })
      .catch(() => undefined); // Another's run, or one that is gone: play trains it again.
  }, [id, key, current, take]);
}

/** The recorded weights by epoch; `whole` once all have arrived. */
interface Weights {
  run: string | null;
  recorded: ReadonlyMap<number, readonly number[]>;
  whole: boolean;
}

/** Poll while the run trains. */
function useWeights(run: string | null, done: boolean, count: number): Weights {
  const [state, setState] = useState<Weights>(NONE);
  useEffect(() => {
    if (run === null) return undefined;
    const stop = new AbortController();
    const own = new Map<number, readonly number[]>();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      try {
        const after = Math.max(0, ...own.keys());
        const series = await get<LayerSeries>(`/api/v1/runs/${seg(run)}/layers`, { after, limit: 1000 }, stop.signal);
        for (const item of series.items as unknown as { epoch: number; layers: { values?: Record<string, unknown> }[] }[]) {
          const weights = flatten(item.layers.filter((layer) => layer.values !== undefined));
          if (weights?.length === count) own.set(item.epoch, weights);
        }
        if (series.items.length > 0 || done) setState({ run, recorded: new Map(own), whole: done });
        if (!done) timer = setTimeout(() => void look(), POLL);
      } catch {
        if (stop.signal.aborted) return;
        if (done) setState((old) => ({ ...old, run, whole: true }));
        else timer = setTimeout(() => void look(), 4 * POLL);
      }
    };
    void look();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [run, done, count]);
  return state.run === run ? state : NONE;
}

const NONE: Weights = { run: null, recorded: new Map(), whole: false };

function momentAt(recorded: ReadonlyMap<number, readonly number[]>, epoch: number, start: readonly number[]): Moment | null {
  if (epoch === 0) return start.length > 0 ? { weights: start, from: 0, to: 0 } : null;
  const known = start.length > 0 ? [0] : [];
  const place = between([...known, ...[...recorded.keys()].sort((a, b) => a - b)], epoch);
  const at = (one: number) => (one === 0 ? start : recorded.get(one));
  const [from, to] = [place && at(place.from), place && at(place.to)];
  if (!place || !from || !to) return null;
  return { weights: mixed(from, to, place.share), from: place.from, to: place.share === 0 ? place.from : place.to };
}

/** Serialize specs so that equal ones give equal text, whatever the order of their keys. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const pairs = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${pairs.map(([name, inner]) => `${JSON.stringify(name)}:${canonical(inner)}`).join(",")}}`;
  }
  return JSON.stringify(value) ?? "null";
}
