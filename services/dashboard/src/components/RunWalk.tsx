import { useMemo, useState } from "react";
import { useWalk } from "../api/runs";
import type { RunDetail } from "../api/types";
import { number } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import type { Activation, Net } from "../spec/walk";
import { Card, Loading } from "./basics";
import { RowWalk, type WalkedRow } from "./play/RowWalk";

const USUAL_RATE = 0.01; // where the optimizer's follows a schedule

/** A row of the run's table through its network, if that is small enough to draw. */
export function RunWalk({ run }: { run: RunDetail }) {
  const t = useText();
  const say = useSentence();
  const [place, setPlace] = useState(1);
  const walk = useWalk(run.id, place);
  const { data } = walk;
  const net = useMemo<Net | null>(() => (data ? { layers: data.layers.map((layer) => ({ ...layer, activation: layer.activation as Activation })), loss: data.loss } : null), [data]);
  const row = useMemo<WalkedRow | null>(() => {
    if (!data) return null;
    const label = data.labels && data.loss !== "squared" ? data.labels[data.loss === "binary" ? (data.target[0] ?? 0) : data.target.indexOf(1)] : null;
    return { inputs: data.inputs.map((one) => one.value), target: data.target, text: `${data.target_name} = ${label ?? data.target.map((value) => number(value, 3)).join(", ")}` };
  }, [data]);
  if (walk.isPending) return <Loading />;
  if (walk.error) {
    return (
      <Card title={t("walk.title")}>
        <p className="small muted">{say(walk.error.message)}</p>
      </Card>
    );
  }
  if (!data || !net) return null;
  return (
    <>
      <p className="small muted">{t("walk.run")}</p>
      <RowWalk net={net} names={data.inputs.map((one) => one.name)} row={row} rows={data.rows} place={place} onPlace={setPlace} rate={data.learning_rate ?? USUAL_RATE} onApply={null} />
    </>
  );
}
