import { memo, useMemo } from "react";
import { CurveChart } from "../charts/CurveChart";
import { HeatMap } from "../charts/HeatMap";
import { number } from "../format";
import { useText } from "../i18n";
import { isRegression, SPEEDS, type Controls, type View } from "../spec/playground";
import { toned, type Form } from "../spec/tinynet";
import type { Losses } from "../spec/trainer";
import type { Training } from "../spec/usePlayground";
import type { Points } from "../spec/usePoints";
import { Card, Check, Notice, Segment } from "./basics";
import { PLANE } from "./PlayData";

const EVERY = 12; // epochs between two drawings of the curves
const MOST_DRAWN = 600; // epochs: more than the chart has pixels

interface Props {
  controls: Controls;
  view: View;
  setView: (part: Partial<View>) => void;
  form: Form;
  points: Points;
  training: Training;
  output: Float32Array | null;
  /** A unit that the pointer is on. */
  enlarged: { name: string; values: Float32Array } | null;
}

const Seek = memo(function Seek({ trained, epoch, seek }: { trained: number; epoch: number; seek: (epoch: number) => void }) {
  const t = useText();
  return <input type="range" aria-label={t("play.epoch")} min={0} max={trained} value={epoch} onChange={(event) => seek(Number(event.target.value))} />;
});

const Choices = memo(function Choices({ view, setView, regression }: Pick<Props, "view" | "setView"> & { regression: boolean }) {
  const t = useText();
  return (
    <>
      {!view.hide.includes("test") && <Check label={t("play.showtest")} checked={view.test} onChange={(test) => setView({ test })} />}
      {!regression && !view.hide.includes("discrete") && <Check label={t("play.discretize")} checked={view.discrete} onChange={(discrete) => setView({ discrete })} />}
      {!view.hide.includes("speed") && (
        <div className="stack tight">
          <span className="small muted">{t("play.speed")}</span>
          <Segment label={t("play.speed")} value={String(view.speed)} choices={SPEEDS.map((speed) => ({ value: String(speed), label: `${speed}/s` }))} onChange={(value) => setView({ speed: Number(value) })} />
        </div>
      )}
    </>
  );
});

/** The network's output over the plane, its losses, and their curves. */
export function PlayOutput({ controls, view, setView, form, points, training, output, enlarged }: Props) {
  const t = useText();
  const { epoch, trained, losses, playing } = training;
  const regression = isRegression(controls);
  // While it plays, the curves are drawn every few epochs: a frame has sixteen milliseconds.
  const drawnTo = playing ? trained - (trained % EVERY) : trained;
  const grid = useMemo(() => {
    const values = enlarged?.values ?? (output && toned(output, form.output));
    if (!values) return null;
    const side = Math.sqrt(values.length);
    return Array.from({ length: side }, (_, row) => values.subarray(row * side, (row + 1) * side));
  }, [enlarged, output, form.output]);
  const drawn = useMemo(() => [...points.train, ...(view.test ? points.test : [])], [points.train, points.test, view.test]);
  const { x, curves } = useMemo(() => {
    const every = playing ? Math.ceil(drawnTo / MOST_DRAWN) : 1; // every epoch once it rests: no spike is hidden
    const x = Array.from({ length: Math.ceil(drawnTo / every) || 0 }, (_, index) => Math.min(drawnTo, 1 + index * every));
    if (x.length > 0) x[x.length - 1] = drawnTo;
    const some = x.map((epoch) => losses[epoch - 1] as Losses);
    return {
      x,
      curves: [
        { label: t("play.trainloss"), values: some.map((one) => one.train), color: "--train" },
        { label: t("play.testloss"), values: some.map((one) => one.test), color: "--valid" },
      ],
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- `t` is new at each drawing
  }, [losses, drawnTo, playing]);
  const marks = useMemo(() => (epoch > 0 && !playing ? [{ x: epoch, label: "" }] : []), [epoch, playing]);
  const at = losses[epoch - 1];
  return (
    <Card title={enlarged?.name ?? t("play.output")}>
      <div className="stack">
        <div className="row between">
          <div className="stat">
            <span className="name">{t("play.trainloss")}</span>
            <span className="value train">{number(at?.train, 3)}</span>
          </div>
          <div className="stat">
            <span className="name">{t("play.testloss")}</span>
            <span className="value valid">{number(at?.test, 3)}</span>
          </div>
        </div>
        {at && !Number.isFinite(at.train) && <Notice tone="bad">{t("play.diverged", { epoch })}</Notice>}
        <HeatMap label={enlarged?.name ?? t("play.surface")} grid={grid} points={drawn} x={PLANE} y={PLANE} size={300} discrete={view.discrete && !regression && enlarged === null} />
        <span className="small faint" data-testid="surface">
          {epoch === 0 ? t("play.start") : t("play.weights.epoch", { epoch })}
        </span>
        {trained > 0 && <Seek trained={drawnTo} epoch={playing ? drawnTo : epoch} seek={training.seek} />}
        <Choices view={view} setView={setView} regression={regression} />
        {x.length > 1 && <CurveChart label={t("play.trainloss")} x={x} curves={curves} marks={marks} height={150} xLabel={t("epoch")} legend={false} />}
      </div>
    </Card>
  );
}
