import { useMemo, useState } from "react";
import { number } from "../../format";
import { useText } from "../../i18n";
import { inputsOf, type Form } from "../../spec/tinynet";
import type { Penalty, Row } from "../../spec/trainer";
import { netOf } from "../../spec/walk";
import { FEATURE_NAMES } from "../featureNames";
import { RowWalk, type WalkedRow } from "./RowWalk";

interface Props {
  form: Form;
  weights: ArrayLike<number>;
  rows: readonly Row[];
  rate: number;
  penalty: Penalty;
  onApply: ((weights: number[]) => void) | null;
}

/** One of the playground's points through its network, step by step. */
export function PointWalk({ form, weights, rows, rate, penalty, onApply }: Props) {
  const t = useText();
  const [place, setPlace] = useState(1);
  const net = useMemo(() => netOf(form, weights, penalty), [form, weights, penalty]);
  const point = rows[Math.min(Math.max(1, place), rows.length) - 1];
  const row = useMemo<WalkedRow | null>(() => {
    if (!point) return null;
    const [x, y, target] = [point.x, point.y, point.target].map((value) => number(value, 3)) as [string, string, string];
    return { inputs: Array.from(inputsOf(form, point.x, point.y)), target: [point.target], text: t("walk.about", { x, y, target }) };
  }, [form, point, t]);
  return <RowWalk net={net} names={form.features.map((name) => FEATURE_NAMES[name])} row={row} rows={rows.length} place={place} onPlace={setPlace} rate={rate} onApply={onApply} />;
}
