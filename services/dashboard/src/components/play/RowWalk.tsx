import { useMemo, useState, type ReactNode } from "react";
import { number } from "../../format";
import { useText } from "../../i18n";
import { sizesOf, type Form } from "../../spec/tinynet";
import type { Penalty, Row } from "../../spec/trainer";
import { updatedOf, walkOf, type UnitWalk, type Walk } from "../../spec/walk";
import { Button, Card, NumberInput, Scroll } from "../basics";
import { FEATURE_NAMES } from "../featureNames";

interface Props {
  form: Form;
  weights: ArrayLike<number>;
  rows: readonly Row[];
  rate: number;
  penalty: Penalty;
  /** Null where weights may not be edited. */
  onApply: ((weights: number[]) => void) | null;
}

type Phase = "inputs" | "forward" | "loss" | "backward" | "update";

interface Step {
  phase: Phase;
  layer: number;
}

const short = (value: number): string => number(value, 3);
/** A factor after a dot. */
const factor = (value: number): string => (value < 0 ? `(${short(value)})` : short(value));

/** One row, step by step: forward with the numbers on the edges, the loss, each factor of the chain rule, the update. */
export function RowWalk({ form, weights, rows, rate, penalty, onApply }: Props) {
  const t = useText();
  const [place, setPlace] = useState(1);
  const [at, setAt] = useState(0);
  const [focus, setFocus] = useState(0);
  const row = rows[Math.min(Math.max(1, place), rows.length) - 1];
  const steps = useMemo<Step[]>(() => {
    const layers = sizesOf(form).map((_, layer) => layer);
    return [{ phase: "inputs", layer: -1 }, ...layers.map((layer) => ({ phase: "forward" as const, layer })), { phase: "loss", layer: layers.length - 1 }, ...[...layers].reverse().map((layer) => ({ phase: "backward" as const, layer })), { phase: "update", layer: layers.length - 1 }];
  }, [form]);
  const walk = useMemo(() => (row ? walkOf(form, weights, row, rate, penalty) : null), [form, weights, row, rate, penalty]);
  const step = steps[Math.min(at, steps.length - 1)];
  if (!walk || !row || !step) return null;
  const units = walk.layers[step.layer] ?? [];
  const chosen = Math.min(focus, Math.max(0, units.length - 1));
  const unit = units[chosen];
  const title = step.phase === "forward" || step.phase === "backward" ? t(`walk.${step.phase}`, { layer: layerName(step.layer, form, t) }) : t(`walk.${step.phase}`);
  return (
    <Card
      title={t("walk.title")}
      actions={
        <>
          <span className="small muted">{t("walk.row")}</span>
          <span className="walk-row">
            <NumberInput small label={t("walk.row")} value={place} onChange={(next) => next !== null && setPlace(Math.round(Math.min(Math.max(1, next), rows.length)))} />
          </span>
          <Button small disabled={at === 0} onPress={() => setAt(at - 1)}>
            {t("walk.back")}
          </Button>
          <Button small tone="primary" disabled={at >= steps.length - 1} onPress={() => setAt(at + 1)}>
            {t("walk.next")}
          </Button>
        </>
      }
    >
      <div className="stack tight" aria-live="polite">
        <div className="row between">
          <h3>
            {Math.min(at, steps.length - 1) + 1}/{steps.length} · {title}
          </h3>
          <span className="small muted num">
            {t("walk.about", { x: short(row.x), y: short(row.y), target: short(row.target) })}
          </span>
        </div>
        <Scroll label={t("walk.title")}>
          <Drawing form={form} walk={walk} step={step} chosen={chosen} onChoose={setFocus} />
        </Scroll>
        <div className="walk-text num">{unit ? <Explanation form={form} walk={walk} step={step} unit={unit} index={chosen} rate={rate} /> : <p>{t("walk.inputs.text")}</p>}</div>
        {step.phase === "update" && onApply !== null && (
          <div className="row">
            <Button
              small
              onPress={() => {
                onApply(updatedOf(walk));
                setAt(0);
              }}
            >
              {t("walk.apply")}
            </Button>
          </div>
        )}
      </div>
    </Card>
  );
}

const layerName = (layer: number, form: Form, t: ReturnType<typeof useText>): string => (layer === form.layers.length ? t("play.output") : t("play.layer", { n: layer + 1 }));

interface ExplanationProps {
  form: Form;
  walk: Walk;
  step: Step;
  unit: UnitWalk;
  index: number;
  rate: number;
}

function Explanation({ form, walk, step, unit, index, rate }: ExplanationProps): ReactNode {
  const t = useText();
  const output = step.layer === form.layers.length;
  const kind = output ? form.output : form.activation;
  const name = output ? t("play.output") : t("play.unit", { unit: index + 1, layer: step.layer + 1 });
  const from = (place: number) => (step.layer === 0 ? FEATURE_NAMES[form.features[place] ?? "x1"] : `a${place + 1}`);
  switch (step.phase) {
    case "inputs":
      return null;
    case "forward":
      return (
        <>
          <p>
            {name}: z = {unit.terms.map((term) => `${short(term.weight)}·${factor(term.input)}`).join(" + ")} + {factor(unit.bias)} = <strong>{short(unit.z)}</strong>
          </p>
          <p>
            a = {kind}({short(unit.z)}) = <strong>{short(unit.a)}</strong>
          </p>
        </>
      );
    case "loss":
      return form.output === "sigmoid" ? (
        <p>
          L = −ln({walk.target === 1 ? "p" : "1 − p"}) = −ln({short(walk.target === 1 ? unit.a : 1 - unit.a)}) = <strong>{short(walk.loss)}</strong>
        </p>
      ) : (
        <p>
          L = (a − y)² = ({short(unit.a)} − {short(walk.target)})² = <strong>{short(walk.loss)}</strong>
        </p>
      );
    case "backward":
      return (
        <>
          <p>
            {name}: ∂L/∂a = {output ? "" : `${(walk.layers[step.layer + 1] ?? []).map((next) => `${short(next.delta)}·${factor(next.terms[index]?.weight ?? 0)}`).join(" + ")} = `}
            {short(unit.byOutput)}, ∂a/∂z = {kind}′({short(unit.z)}) = {short(unit.slope)}
          </p>
          <p>
            ∂L/∂z = {short(unit.byOutput)} · {factor(unit.slope)} = <strong>{short(unit.delta)}</strong>
          </p>
          {unit.terms.map((term, place) => (
            <p key={place}>
              ∂L/∂w({from(place)}) = {short(unit.delta)} · {factor(term.input)} = <strong>{short(unit.delta * term.input)}</strong>
              {Math.abs(term.gradient - unit.delta * term.input) > 0 && ` ${t("walk.penalty", { value: short(term.gradient - unit.delta * term.input) })}`}
            </p>
          ))}
          <p>
            ∂L/∂b = <strong>{short(unit.delta)}</strong>
          </p>
        </>
      );
    case "update":
      return (
        <>
          <p>{t("walk.update.text", { rate: number(rate) })}</p>
          {unit.terms.map((term, place) => (
            <p key={place}>
              w({from(place)}) = {short(term.weight)} − {number(rate)} · {factor(term.gradient)} = <strong>{short(term.updated)}</strong>
            </p>
          ))}
          <p>
            b = {short(unit.bias)} − {number(rate)} · {factor(unit.delta)} = <strong>{short(unit.updatedBias)}</strong>
          </p>
        </>
      );
  }
}

interface DrawingProps {
  form: Form;
  walk: Walk;
  step: Step;
  chosen: number;
  onChoose: (unit: number) => void;
}

const [COLUMN, LINE, RADIUS] = [150, 54, 21];

/** The network with this row's numbers; the edges into the chosen unit carry theirs. */
function Drawing({ form, walk, step, chosen, onChoose }: DrawingProps) {
  const t = useText();
  const columns = [walk.inputs.length, ...sizesOf(form)];
  const height = Math.max(...columns) * LINE + 24;
  const x = (column: number) => 50 + column * COLUMN;
  const y = (column: number, place: number) => height / 2 + (place - ((columns[column] ?? 1) - 1) / 2) * LINE;
  const known = (layer: number) => step.phase !== "inputs" && (step.phase !== "forward" || layer <= step.layer);
  const isBack = step.phase === "backward";
  return (
    <svg className="walk" width={x(columns.length - 1) + 70} height={height} role="img" aria-label={t("walk.drawing")}>
      {walk.layers.map((units, layer) =>
        units.map((unit, to) =>
          unit.terms.map((term, from) => {
            const on = layer === step.layer && (to === chosen || step.phase === "update");
            const [x0, y0, x1, y1] = [x(layer) + RADIUS, y(layer, from), x(layer + 1) - RADIUS, y(layer + 1, to)];
            const value = isBack ? term.gradient : step.phase === "update" ? term.updated : term.weight;
            return (
              <g key={`${layer}.${from}.${to}`}>
                <line x1={x0} y1={y0} x2={x1} y2={y1} className={value < 0 ? "wire neg" : "wire pos"} strokeWidth={on ? 2.2 : 0.8} opacity={on ? 0.95 : 0.22} />
                {layer === step.layer && to === chosen && step.phase !== "inputs" && (
                  <text x={x0 + 0.38 * (x1 - x0)} y={y0 + 0.38 * (y1 - y0) - 4} textAnchor="middle">
                    {short(value)}
                  </text>
                )}
              </g>
            );
          }),
        ),
      )}
      {walk.inputs.map((value, place) => (
        <g key={`i${place}`}>
          <circle cx={x(0)} cy={y(0, place)} r={RADIUS} />
          <text x={x(0)} y={y(0, place) + 4} textAnchor="middle">
            {short(value)}
          </text>
          <text x={x(0) - RADIUS - 4} y={y(0, place) + 4} textAnchor="end" className="faint">
            {FEATURE_NAMES[form.features[place] ?? "x1"]}
          </text>
        </g>
      ))}
      {walk.layers.map((units, layer) =>
        units.map((unit, place) => (
          <g key={`${layer}.${place}`} className={layer === step.layer && place === chosen ? "unit on" : "unit"} onClick={() => onChoose(place)}>
            <circle cx={x(layer + 1)} cy={y(layer + 1, place)} r={RADIUS} />
            <text x={x(layer + 1)} y={y(layer + 1, place) + 4} textAnchor="middle">
              {known(layer) ? short(isBack && layer >= step.layer ? unit.delta : unit.a) : "?"}
            </text>
          </g>
        )),
      )}
    </svg>
  );
}
