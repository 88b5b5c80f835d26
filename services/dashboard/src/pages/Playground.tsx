import { memo, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { Link, useSearchParams } from "react-router";
import { Button, Card, Check, ErrorView, Select } from "../components/basics";
import { Icon } from "../components/icons";
import { PlayData, type PanelProps } from "../components/PlayData";
import { PlayNetwork, rounded, type HoveredUnit } from "../components/PlayNetwork";
import { PointWalk } from "../components/play/PointWalk";
import { PlayOutput } from "../components/PlayOutput";
import { WeightTable } from "../components/WeightTable";
import { number } from "../format";
import { useText, type Key } from "../i18n";
import { write } from "../spec/document";
import {
  ACTIVATIONS,
  changed,
  formOf,
  HIDEABLE,
  MOST_LAYERS,
  MOST_NEURONS,
  RATES,
  readControls,
  readView,
  REGULARIZATION_RATES,
  REGULARIZERS,
  specOf,
  writeControls,
  type Controls,
  type View,
} from "../spec/playground";
import { COARSE } from "../spec/learner";
import { byLayer, FEATURES, Plane } from "../spec/tinynet";
import { usePoints } from "../spec/usePoints";
import { useTraining, type Training } from "../spec/usePlayground";

const fine = new Plane(100, -6, 6);
const LIVE = ["rate", "batch", "regularizer", "strength", "epochs"]; // change without a new beginning

export default function Playground() {
  const t = useText();
  const [query, setQuery] = useSearchParams();
  const written = [...query].filter(([name]) => name !== "at").join("&");
  // eslint-disable-next-line react-hooks/exhaustive-deps -- depends on the controls, not on the epoch shown
  const [controls, view] = useMemo(() => [readControls(query), readView(query)] as const, [written]);
  const points = usePoints(controls);
  const [round, setRound] = useState(0);
  const [at] = useState(() => Math.round(Number(query.get("at"))) || 0); // of the address that was opened
  const [opened] = useState(written);
  const training = useTraining({ controls, rows: points.rows, speed: view.speed, at: round === 0 && written === opened ? at : 0, round });
  const { epoch, playing, weights } = training;
  const put = (next: Controls, look: View, seen: number) => {
    const wanted = writeControls(next, look);
    if (seen > 0) wanted.set("at", String(seen));
    // Do not navigate back to a page that the visitor is leaving.
    const here = window.location.pathname.endsWith("/playground");
    if (here && wanted.toString() !== query.toString()) setQuery(wanted, { replace: true });
  };
  const now = useRef({ controls, view, epoch, put });
  useEffect(() => {
    now.current = { controls, view, epoch, put };
  });
  // The same from frame to frame, so that panels which no epoch changes are not drawn anew.
  const set = useCallback((part: Partial<Controls>) => {
    const { controls, view, epoch, put } = now.current;
    put(changed(controls, part), view, Object.keys(part).every((name) => LIVE.includes(name)) ? epoch : 0);
  }, []);
  const setView = useCallback((part: Partial<View>) => {
    const { controls, view, epoch, put } = now.current;
    put(controls, { ...view, ...part }, epoch);
  }, []);
  useEffect(() => {
    // Once paused, put the epoch shown into the address.
    if (playing || points.rows.train.length === 0) return undefined;
    const timer = setTimeout(() => put(controls, view, epoch), 250);
    return () => clearTimeout(timer);
    // eslint-disable-next-line react-hooks/exhaustive-deps -- `put` depends on these
  }, [playing, epoch, written, points.rows]);
  const form = useMemo(() => formOf(controls), [controls]);
  const plane = playing ? COARSE : fine;
  const maps = useMemo(() => (weights.length === 0 ? null : training.maps ? byLayer(form, training.maps) : plane.run(form, weights)), [plane, form, weights, training.maps]);
  const penalty = useMemo(() => ({ kind: controls.regularizer, strength: controls.strength }), [controls.regularizer, controls.strength]);
  const spec = useMemo(() => (points.ref ? write(specOf(controls, points.ref)) : null), [controls, points.ref]);
  const [hovered, setHovered] = useState<HoveredUnit | null>(null);
  const enlarged = useMemo(() => {
    const values = hovered?.of(maps, plane);
    return hovered && values ? { name: hovered.name, values } : null;
  }, [hovered, maps, plane]);
  const edit = (place: number, value: number) => set({ start: Array.from(weights, (own, index) => (index === place ? value : rounded(own))) });
  const reset = useCallback(() => {
    const { controls, view, put } = now.current;
    setRound((old) => old + 1);
    put({ ...controls, start: [] }, view, 0);
  }, []);
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>{t("play.title")}</h1>
          <p className="muted">{t("play.lead")}</p>
        </div>
        {!view.hide.includes("transport") && (
          <Transport training={training} onReset={reset} />
        )}
      </div>
      {points.error !== null && <ErrorView error={points.error} />}
      <TopBar controls={controls} view={view} set={set} />
      <div className="play">
        <PlayData controls={controls} view={view} set={set} points={points.train} />
        <Card title={t("play.layers")} actions={view.hide.includes("layers") ? undefined : <LayerCount controls={controls} set={set} />}>
          <div className="stack">
            {!view.hide.includes("layers") && <Neurons controls={controls} set={set} />}
            <PlayNetwork
              form={form}
              plane={plane}
              maps={maps}
              weights={weights.length > 0 ? weights : null}
              onFeature={view.hide.includes("features") ? null : (feature, on) => set({ features: FEATURES.filter((own) => (own === feature ? on : controls.features.includes(own))) })}
              onEdit={view.hide.includes("weights") ? null : edit}
              onHover={setHovered}
            />
            <p className="small muted">{controls.start.length > 0 ? t("play.edited") : t("play.edit")}</p>
            {weights.length > 0 && !view.hide.includes("weights") && <WeightTable form={form} weights={weights} onEdit={edit} />}
          </div>
        </Card>
        <PlayOutput controls={controls} view={view} setView={setView} form={form} points={points} training={training} output={maps?.at(-1)?.[0] ?? null} enlarged={enlarged} />
      </div>
      {weights.length > 0 && !playing && (
        <PointWalk form={form} weights={weights} rows={points.rows.train} rate={controls.rate} penalty={penalty} onApply={view.hide.includes("weights") ? null : (next) => set({ start: next.map(rounded) })} />
      )}
      <Hiding view={view} setView={setView} spec={spec} />
    </div>
  );
}

function Transport({ training, onReset }: { training: Training; onReset: () => void }) {
  const t = useText();
  const { playing, trained, epoch, play, pause, step } = training;
  return (
    <div className="row transport">
      <Keys playing={playing} play={play} pause={pause} step={step} reset={onReset} />
      <div className="stat epoch">
        <span className="name">{t("play.epoch")}</span>
        <span className="value" data-testid="epoch">
          {String(epoch).padStart(4, "0")}
        </span>
      </div>
      <span className="small muted state" aria-live="polite">
        {trained > 0 && !playing ? t("play.ready", { n: number(trained) }) : ""}
      </span>
    </div>
  );
}

/** Drawn anew when it starts or stops, and by no epoch. */
const Keys = memo(function Keys({ playing, play, pause, step, reset }: Pick<Training, "playing" | "play" | "pause" | "step"> & { reset: () => void }) {
  const t = useText();
  return (
    <>
      <Button icon label={t("play.reset")} onPress={reset}>
        <Icon name="reset" />
      </Button>
      <Button tone="primary" label={playing ? t("play.pause") : t("play.play")} onPress={playing ? pause : play}>
        <Icon name={playing ? "pause" : "play"} /> {playing ? t("play.pause") : t("play.play")}
      </Button>
      <Button icon label={t("play.step")} onPress={step}>
        <Icon name="step" />
      </Button>
    </>
  );
});

const TopBar = memo(function TopBar({ controls, view, set }: PanelProps) {
  const t = useText();
  const shown = (name: View["hide"][number]) => !view.hide.includes(name);
  if (!(["rate", "activation", "regularization", "epochs"] as const).some(shown)) return null;
  return (
    <div className="card">
      <div className="body fields compact">
        {shown("rate") && <Select label={t("play.rate")} value={String(controls.rate)} choices={[...new Set([...RATES.map(String), String(controls.rate)])]} onChange={(value) => set({ rate: Number(value) })} />}
        {shown("activation") && <Select label={t("play.activation")} value={controls.activation} choices={ACTIVATIONS} onChange={(value) => set({ activation: value as Controls["activation"] })} />}
        {shown("regularization") && (
          <>
            <Select
              label={t("play.regularization")}
              value={controls.regularizer}
              choices={REGULARIZERS.map((value) => ({ value, label: value === "none" ? t("play.none") : value }))}
              onChange={(value) => set({ regularizer: value as Controls["regularizer"], strength: value === "none" ? 0 : controls.strength || 0.001 })}
            />
            <Select label={t("play.regrate")} value={String(controls.strength)} choices={[...new Set([...REGULARIZATION_RATES.map(String), String(controls.strength)])]} onChange={(value) => set({ strength: Number(value) })} />
          </>
        )}
        {shown("epochs") && <Select label={t("epochs")} value={String(controls.epochs)} choices={[...new Set(["50", "100", "200", "500", "1000", String(controls.epochs)])]} onChange={(value) => set({ epochs: Number(value) })} />}
      </div>
    </div>
  );
});

type Setting = Pick<PanelProps, "controls" | "set">;

const LayerCount = memo(function LayerCount({ controls: { layers }, set }: Setting) {
  const t = useText();
  return (
    <>
      <Button small icon label={t("play.add")} disabled={layers.length >= MOST_LAYERS} onPress={() => set({ layers: [...layers, 2] })}>
        <Icon name="plus" />
      </Button>
      <span className="num small">{layers.length}</span>
      <Button small icon label={t("play.remove")} disabled={layers.length === 0} onPress={() => set({ layers: layers.slice(0, -1) })}>
        <Icon name="minus" />
      </Button>
    </>
  );
});

const Neurons = memo(function Neurons({ controls: { layers }, set }: Setting) {
  const t = useText();
  return (
    <div className="row neurons">
      {layers.map((units, index) => (
        <Select
          key={index}
          small
          label={t("play.neurons", { n: index + 1 })}
          value={String(units)}
          choices={Array.from({ length: MOST_NEURONS }, (_, at) => String(at + 1))}
          onChange={(value) => set({ layers: layers.map((own, at) => (at === index ? Number(value) : own)) })}
        />
      ))}
    </div>
  );
});

/** Hides controls for teaching (the address records which), and links to the spec in New run. */
const Hiding = memo(function Hiding({ view, setView, spec }: { view: View; setView: (part: Partial<View>) => void; spec: string | null }) {
  const t = useText();
  return (
    <div className="row between top">
      <details className="grow">
        <summary className="small">{t("play.hide")}</summary>
        <p className="small muted">{t("play.hide.text")}</p>
        <div className="row">
          {HIDEABLE.map((name) => (
            <Check
              key={name}
              label={t(`play.hide.${name}` as Key)}
              checked={view.hide.includes(name)}
              onChange={(on) => setView({ hide: HIDEABLE.filter((own) => (own === name ? on : view.hide.includes(own))) })}
            />
          ))}
        </div>
      </details>
      {spec !== null && (
        <Link className="button small" to={`/new?spec=${encodeURIComponent(spec)}`}>
          {t("play.more")}
        </Link>
      )}
    </div>
  );
});
