import { memo, useState } from "react";
import { HeatMap, type Point } from "../charts/HeatMap";
import { useText, type Key } from "../i18n";
import { SAMPLES, type Controls, type View } from "../spec/playground";
import { Button, Card, Select } from "./basics";
import { OwnColumns } from "./play/OwnColumns";

/** The range of both axes. */
export const PLANE: [number, number] = [-6, 6];

export interface PanelProps {
  controls: Controls;
  view: View;
  set: (part: Partial<Controls>) => void;
}

export const PlayData = memo(function PlayData({ controls, view, set, points }: PanelProps & { points: readonly Point[] }) {
  const t = useText();
  const [asked, setAsked] = useState(false);
  const shown = (name: View["hide"][number]) => !view.hide.includes(name);
  return (
    <Card title={t("play.data")}>
      <div className="stack">
        {shown("sample") && (
          <>
            <Select
              label={t("play.data")}
              hideLabel
              value={asked || controls.own ? "own" : controls.sample}
              choices={[...SAMPLES, "own"].map((value) => ({ value, label: t(`play.sample.${value}` as Key) }))}
              onChange={(value) => {
                setAsked(value === "own");
                if (value !== "own") set({ sample: value as Controls["sample"], own: null });
              }}
            />
            {(asked || controls.own !== null) && <OwnColumns own={controls.own} onChoose={(own) => set({ own })} />}
          </>
        )}
        <HeatMap label={t(controls.own ? "play.sample.own" : (`play.sample.${controls.sample}` as Key))} grid={null} points={points} x={PLANE} y={PLANE} size={150} axes={false} />
        {shown("share") && <Range label={t("play.share")} unit="%" value={controls.share} min={10} max={90} step={10} onChange={(share) => set({ share })} />}
        {shown("noise") && controls.own === null && <Range label={t("play.noise")} unit="" value={controls.noise} min={0} max={50} step={5} onChange={(noise) => set({ noise })} />}
        {shown("batch") && <Range label={t("play.batch")} unit="" value={controls.batch} min={1} max={30} step={1} onChange={(batch) => set({ batch })} />}
        {shown("regenerate") && (
          <>
            <Button small onPress={() => set({ seed: (controls.seed * 1_103_515_245 + 12_345) % 100_003 })}>
              {t("play.regenerate")}
            </Button>
            <span className="small faint num">
              {t("play.seed")} {controls.seed}
            </span>
          </>
        )}
      </div>
    </Card>
  );
});

interface RangeProps {
  label: string;
  unit: string;
  value: number;
  min: number;
  max: number;
  step: number;
  onChange: (value: number) => void;
}

/** A slider that reports its value on release, so a drag is one change. */
function Range({ label, unit, value, min, max, step, onChange }: RangeProps) {
  const [dragged, setDragged] = useState<number | null>(null);
  const shown = dragged ?? value;
  const settle = () => {
    if (dragged !== null && dragged !== value) onChange(dragged);
    setDragged(null);
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
      <input type="range" min={min} max={max} step={step} value={shown} onChange={(event) => setDragged(Number(event.target.value))} onPointerUp={settle} onKeyUp={settle} onBlur={settle} />
    </label>
  );
}
