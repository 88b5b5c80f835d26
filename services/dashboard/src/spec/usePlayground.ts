/** The playground's training, which happens in this page: no queue, no worker, no run. */

import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { Learning, type Settings, type Shown } from "./learning";
import { formOf, type Controls } from "./playground";
import type { Row } from "./trainer";

export interface Training extends Shown {
  play: () => void;
  pause: () => void;
  step: () => void;
  seek: (epoch: number) => void;
}

interface Request {
  controls: Controls;
  rows: { train: readonly Row[]; test: readonly Row[] };
  speed: number;
  /** The epoch in a shared address; its training is repeated. */
  at: number;
  /** Increases with every Reset. */
  round: number;
}

const MOST_REPEATED = 3000; // epochs

const NOTHING: Shown = { epoch: 0, trained: 0, playing: false, weights: new Float32Array(0), maps: null, losses: [] };

/** The learning rate, the penalty and the batch size may change while it learns; all else begins anew. */
export function useTraining({ controls, rows, speed, at, round }: Request): Training {
  const { rate, batch, regularizer, strength, epochs, seed, start } = controls;
  const settings = useMemo<Settings>(() => ({ rate, batch, penalty: { kind: regularizer, strength }, speed, epochs }), [rate, batch, regularizer, strength, speed, epochs]);
  const form = useMemo(() => formOf(controls), [controls]);
  const key = JSON.stringify([form, seed, start, round]);
  const learning = useMemo(
    () => (rows.train.length === 0 ? null : new Learning({ form, ...rows, seed, start: start.length > 0 ? start : null }, settings, Math.min(at, MOST_REPEATED))),
    // eslint-disable-next-line react-hooks/exhaustive-deps -- `key` holds what begins anew; settings are passed on below
    [key, rows],
  );
  const wanted = useRef(false); // Play was pressed while the points were still on their way
  useEffect(() => {
    if (learning && wanted.current) learning.play();
    if (learning) wanted.current = false;
    return () => learning?.stop();
  }, [learning]);
  useEffect(() => learning?.configure(settings), [learning, settings]);
  const shown = useSyncExternalStore(learning?.subscribe ?? (() => () => undefined), learning?.snapshot ?? (() => NOTHING));
  const controlsOf = useMemo(
    () => ({
      play: () => {
        wanted.current = learning === null;
        learning?.play();
      },
      pause: () => learning?.pause(),
      step: () => learning?.step(),
      seek: (epoch: number) => learning?.seek(epoch),
    }),
    [learning],
  );
  return { ...shown, ...controlsOf };
}
