import { useMemo, useState } from "react";
import { Link, useSearchParams } from "react-router";
import { blend, centred } from "../api/surface";
import { CurveChart } from "../charts/CurveChart";
import { HeatMap, type Point } from "../charts/HeatMap";
import { Button, Card, Check, ErrorView, Segment, Select } from "../components/basics";
import { Icon } from "../components/icons";
import { NetworkDrawing } from "../components/NetworkDrawing";
import { number } from "../format";
import { useText, type Key } from "../i18n";
import { columnsOf } from "../spec/network";
import {
  ACTIVATIONS,
  between,
  isRegression,
  MOST_LAYERS,
  MOST_NEURONS,
  RATES,
  readControls,
  REGULARIZATION_RATES,
  REGULARIZERS,
  SAMPLES,
  writeControls,
  type Controls,
} from "../spec/playground";
import { PLANE, usePoints, useTraining, type Training } from "../spec/usePlayground";

const SPEEDS = [5, 10, 20, 60] as const;

export default function Playground() {
  const t = useText();
  const [query, setQuery] = useSearchParams();
  const controls = useMemo(() => readControls(query), [query]);
  const set = (part: Partial<Controls>) => setQuery(writeControls({ ...controls, ...part }), { replace: true });
  const points = usePoints(controls);
  const training = useTraining(controls, points.dataset);
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>{t("play.title")}</h1>
          <p className="muted">{t("play.lead")}</p>
        </div>
        <Transport training={training} />
      </div>
      {points.error !== null && <ErrorView error={points.error} />}
      {training.error !== null && <ErrorView error={training.error} />}
      <TopBar controls={controls} set={set} />
      <div className="play">
        <DataPanel controls={controls} set={set} points={points.points} />
        <LayerPanel controls={controls} set={set} training={training} />
        <OutputPanel points={points.points} training={training} regression={isRegression(controls.sample)} />
      </div>
    </div>
  );
}

function Transport({ training }: { training: Training }) {
  const t = useText();
  const { playing, state, trained, epoch } = training;
  return (
    <div className="row transport">
      <Button icon label={t("play.reset")} onPress={training.reset}>
        <Icon name="reset" />
      </Button>
      <Button tone="primary" label={playing ? t("play.pause") : t("play.play")} onPress={playing ? training.pause : training.play}>
        <Icon name={playing ? "pause" : "play"} /> {playing ? t("play.pause") : t("play.play")}
      </Button>
      <Button icon label={t("play.step")} onPress={training.step}>
        <Icon name="step" />
      </Button>
      <div className="stat epoch">
        <span className="name">{t("play.epoch")}</span>
        <span className="value" data-testid="epoch">
          {String(epoch).padStart(4, "0")}
        </span>
      </div>
      <span className="small muted" aria-live="polite">
        {state === "queued" ? t("play.queued") : state === "running" ? t("play.training") : trained > 0 ? t("play.ready", { n: number(trained) }) : ""}
      </span>
    </div>
  );
}

interface PanelProps {
  controls: Controls;
  set: (part: Partial<Controls>) => void;
}

function TopBar({ controls, set }: PanelProps) {
  const t = useText();
  return (
    <div className="card">
      <div className="body fields">
        <Select label={t("play.rate")} value={String(controls.rate)} choices={RATES.map(String)} onChange={(value) => set({ rate: Number(value) })} />
        <Select label={t("play.activation")} value={controls.activation} choices={ACTIVATIONS} onChange={(value) => set({ activation: value as Controls["activation"] })} />
        <Select
          label={t("play.regularization")}
          value={controls.regularizer}
          choices={REGULARIZERS.map((value) => ({ value, label: value === "none" ? t("play.none") : value }))}
          onChange={(value) => set({ regularizer: value as Controls["regularizer"], strength: value === "none" ? 0 : controls.strength || 0.001 })}
        />
        <Select label={t("play.regrate")} value={String(controls.strength)} choices={REGULARIZATION_RATES.map(String)} onChange={(value) => set({ strength: Number(value) })} />
        <Select label={t("epochs")} value={String(controls.epochs)} choices={[...new Set(["50", "100", "200", "500", "1000", String(controls.epochs)])]} onChange={(value) => set({ epochs: Number(value) })} />
      </div>
    </div>
  );
}

function DataPanel({ controls, set, points }: PanelProps & { points: readonly Point[] }) {
  const t = useText();
  return (
    <Card title={t("play.data")}>
      <div className="stack">
        <Select label={t("play.data")} hideLabel value={controls.sample} choices={SAMPLES.map((value) => ({ value, label: t(`play.sample.${value}` as Key) }))} onChange={(value) => set({ sample: value as Controls["sample"] })} />
        <HeatMap label={t(`play.sample.${controls.sample}` as Key)} grid={null} points={points} x={PLANE} y={PLANE} size={150} axes={false} />
        <Range label={t("play.share")} unit="%" value={controls.share} min={10} max={90} step={10} onChange={(share) => set({ share })} />
        <Range label={t("play.noise")} unit="" value={controls.noise} min={0} max={50} step={5} onChange={(noise) => set({ noise })} />
        <Range label={t("play.batch")} unit="" value={controls.batch} min={1} max={30} step={1} onChange={(batch) => set({ batch })} />
        <Button small onPress={() => set({ seed: (controls.seed * 1_103_515_245 + 12_345) % 100_003 })}>
          {t("play.regenerate")}
        </Button>
        <span className="small faint num">
          {t("play.seed")} {controls.seed}
        </span>
      </div>
    </Card>
  );
}

interface RangeProps {
  label: string;
  unit: string;
  value: number;
  min: number;
  max: number;
  step: number;
  onChange: (value: number) => void;
}

/** Tells its value when it is let go, so that a drag is one change. */
function Range({ label, unit, value, min, max, step, onChange }: RangeProps) {
  const [held, setHeld] = useState<number | null>(null);
  const shown = held ?? value;
  const settle = () => {
    if (held !== null && held !== value) onChange(held);
    setHeld(null);
  };
  return (
    <label className="field">
      <span className="label row between">
        <span>{label}</span>
        <span className="num">
          {shown}
          {unit}
        </span>
      </span>
      <input type="range" min={min} max={max} step={step} value={shown} onChange={(event) => setHeld(Number(event.target.value))} onPointerUp={settle} onKeyUp={settle} onBlur={settle} />
    </label>
  );
}

function LayerPanel({ controls, set, training }: PanelProps & { training: Training }) {
  const t = useText();
  const { layers } = controls;
  const columns = columnsOf(
    layers.map((units) => ({ cls: "Dense", args: { units, activation: controls.activation }, beside: {} })),
    2,
    1,
    { input: "x1, x2", output: t("play.output") },
  );
  const surface = surfaceAt(training);
  return (
    <Card
      title={t("play.layers")}
      actions={
        <>
          <Button small icon label={t("play.add")} disabled={layers.length >= MOST_LAYERS} onPress={() => set({ layers: [...layers, 2] })}>
            <Icon name="plus" />
          </Button>
          <Button small icon label={t("play.remove")} disabled={layers.length === 0} onPress={() => set({ layers: layers.slice(0, -1) })}>
            <Icon name="trash" />
          </Button>
        </>
      }
    >
      <div className="stack">
        <NetworkDrawing columns={columns} label={t("network.drawing", { layers: layers.join(" → ") })} />
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
        {surface !== null && surface.units.length > 0 && (
          <div className="stack tight">
            <h3>{t("play.units")}</h3>
            {[...new Set(surface.units.map((unit) => unit.layer))].map((layer) => (
              <div key={layer} className="row tight">
                {surface.units
                  .filter((unit) => unit.layer === layer)
                  .map((unit) => (
                    <HeatMap key={unit.unit} label={`${layer} ${unit.unit + 1}`} grid={unit.grid} x={PLANE} y={PLANE} size={44} axes={false} />
                  ))}
              </div>
            ))}
          </div>
        )}
      </div>
    </Card>
  );
}

interface Shown {
  grid: number[][];
  units: { layer: string; unit: number; grid: number[][] }[];
  from: number;
  to: number;
}

/** The picture of the epoch that is shown: a kept one's, or a blend of its neighbours. */
function surfaceAt(training: Training): Shown | null {
  const kept = [...training.surfaces.keys()].sort((a, b) => a - b);
  const place = between(kept, training.epoch);
  const from = place && training.surfaces.get(place.from);
  const to = place && training.surfaces.get(place.to);
  if (!place || !from || !to || training.epoch === 0) return null;
  const share = from.labels !== null;
  return {
    grid: blend(centred(from.grid, share), centred(to.grid, share), place.share),
    units: from.units.map((unit, index) => ({ layer: unit.layer, unit: unit.unit, grid: blend(centred(unit.grid, false), centred(to.units[index]?.grid ?? unit.grid, false), place.share) })),
    from: place.from,
    to: place.share === 0 ? place.from : place.to,
  };
}

function OutputPanel({ points, training, regression }: { points: readonly Point[]; training: Training; regression: boolean }) {
  const t = useText();
  const [discrete, setDiscrete] = useState(false);
  const { live, epoch, trained } = training;
  const shown = surfaceAt(training);
  const { x, curves, marks } = useMemo(() => {
    void live.version;
    const length = trained;
    return {
      x: Array.from({ length }, (_, index) => index + 1),
      curves: [
        { label: t("play.trainloss"), values: live.table.series(0, "loss", length), color: "--train" },
        { label: t("play.testloss"), values: live.table.series(0, "val_loss", length), color: "--valid" },
      ],
      marks: epoch > 0 ? [{ x: epoch, label: "" }] : [],
    };
  }, [live.table, live.version, trained, epoch, t]);
  const at = (name: string) => (epoch > 0 ? (live.table.series(0, name, epoch)[epoch - 1] ?? null) : null);
  return (
    <Card title={t("play.output")} actions={training.runId ? <Link to={`/runs/${encodeURIComponent(training.runId)}`}>{t("play.open")}</Link> : undefined}>
      <div className="stack">
        <div className="row between">
          <div className="stat">
            <span className="name">{t("play.trainloss")}</span>
            <span className="value train">{number(at("loss"), 3)}</span>
          </div>
          <div className="stat">
            <span className="name">{t("play.testloss")}</span>
            <span className="value valid">{number(at("val_loss"), 3)}</span>
          </div>
        </div>
        <HeatMap label={t("play.surface")} grid={shown?.grid ?? null} points={points} x={PLANE} y={PLANE} size={300} discrete={discrete && !regression} />
        <span className="small faint" data-testid="surface">
          {shown === null ? (training.runId !== null ? t("play.nosurface") : "") : shown.from === shown.to ? t("play.between", { epoch: shown.from }) : t("play.blended", { from: shown.from, to: shown.to })}
        </span>
        {trained > 0 && (
          <input type="range" aria-label={t("play.epoch")} disabled={training.surfaces.size === 0} min={0} max={trained} value={epoch} onChange={(event) => training.seek(Number(event.target.value))} />
        )}
        <div className="row between">
          {!regression && <Check label={t("play.discretize")} checked={discrete} onChange={setDiscrete} />}
          <Segment label={t("play.speed")} value={String(training.speed)} choices={SPEEDS.map((speed) => ({ value: String(speed), label: `${speed}/s` }))} onChange={(value) => training.setSpeed(Number(value))} />
        </div>
        {x.length > 1 && <CurveChart label={t("play.trainloss")} x={x} curves={curves} marks={marks} height={150} xLabel={t("epoch")} legend={false} />}
      </div>
    </Card>
  );
}
