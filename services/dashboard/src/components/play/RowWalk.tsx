import { useMemo, useState, type ReactNode } from "react";
import { number } from "../../format";
import { useText } from "../../i18n";
import { updatedOf, walkOf, type Net, type UnitWalk, type Walk } from "../../spec/walk";
import { Button, Card, NumberInput, Scroll } from "../basics";

/** A row as the network reads it, and what is said of it. */
export interface WalkedRow {
  inputs: readonly number[];
  target: readonly number[];
  text: string;
}

interface Props {
  net: Net;
  /** The inputs' names. */
  names: readonly string[];
  /** Null while it is being read. */
  row: WalkedRow | null;
  rows: number;
  place: number;
  onPlace: (place: number) => void;
  rate: number;
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
export function RowWalk({ net, names, row, rows, place, onPlace, rate, onApply }: Props) {
  const t = useText();
  const [at, setAt] = useState(0);
  const [focus, setFocus] = useState(0);
  const depth = net.layers.length;
  const steps = useMemo<Step[]>(() => {
    const layers = Array.from({ length: depth }, (_, layer) => layer);
    return [{ phase: "inputs", layer: -1 }, ...layers.map((layer) => ({ phase: "forward" as const, layer })), { phase: "loss", layer: depth - 1 }, ...[...layers].reverse().map((layer) => ({ phase: "backward" as const, layer })), { phase: "update", layer: depth - 1 }];
  }, [depth]);
  const walk = useMemo(() => (row ? walkOf(net, row.inputs, row.target, rate) : null), [net, row, rate]);
  const step = steps[Math.min(at, steps.length - 1)];
  if (!walk || !row || !step) return null;
  const units = walk.layers[step.layer] ?? [];
  const chosen = Math.min(focus, Math.max(0, units.length - 1));
  const unit = units[chosen];
  const title = step.phase === "forward" || step.phase === "backward" ? t(`walk.${step.phase}`, { layer: layerName(step.layer, depth, t) }) : t(`walk.${step.phase}`);
  return (
    <Card
      title={t("walk.title")}
      actions={
        <>
          <span className="small muted">{t("walk.row")}</span>
          <span className="walk-row">
            <NumberInput small label={t("walk.row")} value={place} onChange={(next) => next !== null && onPlace(Math.round(Math.min(Math.max(1, next), rows)))} />
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
          <span className="small muted num break">{row.text}</span>
        </div>
        <Scroll label={t("walk.title")}>
          <Drawing names={names} walk={walk} step={step} chosen={chosen} onChoose={setFocus} />
        </Scroll>
        <div className="walk-text num">{unit ? <Explanation net={net} names={names} walk={walk} step={step} unit={unit} index={chosen} rate={rate} /> : <p>{t("walk.inputs.text")}</p>}</div>
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

const layerName = (layer: number, depth: number, t: ReturnType<typeof useText>): string => (layer === depth - 1 ? t("play.output") : t("play.layer", { n: layer + 1 }));

interface ExplanationProps {
  net: Net;
  names: readonly string[];
  walk: Walk;
  step: Step;
  unit: UnitWalk;
  index: number;
  rate: number;
}

function Explanation({ net, names, walk, step, unit, index, rate }: ExplanationProps): ReactNode {
  const t = useText();
  const output = step.layer === net.layers.length - 1;
  const kind = net.layers[step.layer]?.activation ?? "linear";
  const several = (walk.layers.at(-1)?.length ?? 1) > 1;
  const name = output ? `${t("play.output")}${several ? ` ${index + 1}` : ""}` : t("play.unit", { unit: index + 1, layer: step.layer + 1 });
  const from = (place: number) => (step.layer === 0 ? names[place] : `a${place + 1}`);
  const target = walk.target[index] ?? 0;
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
      return <Loss net={net} walk={walk} unit={unit} index={index} />;
    case "backward":
      return (
        <>
          {kind === "softmax" ? (
          <p>
            {name}: ∂L/∂z = p − y = {short(unit.a)} − {short(target)} = <strong>{short(unit.delta)}</strong>
          </p>
          ) : (
          <>
          <p>
            {name}: ∂L/∂a = {output ? "" : `${(walk.layers[step.layer + 1] ?? []).map((next) => `${short(next.delta)}·${factor(next.terms[index]?.weight ?? 0)}`).join(" + ")} = `}
            {short(unit.byOutput)}, ∂a/∂z = {kind}′({short(unit.z)}) = {short(unit.slope)}
          </p>
          <p>
            ∂L/∂z = {short(unit.byOutput)} · {factor(unit.slope)} = <strong>{short(unit.delta)}</strong>
          </p>
          </>
          )}
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

/** The row's loss, written out. */
function Loss({ net, walk, unit, index }: { net: Net; walk: Walk; unit: UnitWalk; index: number }) {
  const output = walk.layers.at(-1) ?? [];
  const likely = walk.target.indexOf(1);
  const target = walk.target[index] ?? 0;
  const total = <strong>{short(walk.loss)}</strong>;
  if (net.loss === "categorical") {
    return (
      <p>
        L = −ln(p{likely + 1}) = −ln({short(output[likely]?.a ?? 0)}) = {total}
      </p>
    );
  }
  if (net.loss === "binary") {
    return (
      <p>
        L = −ln({target === 1 ? "p" : "1 − p"}) = −ln({short(target === 1 ? unit.a : 1 - unit.a)}) = {total}
      </p>
    );
  }
  return output.length === 1 ? (
    <p>
      L = (a − y)² = ({short(unit.a)} − {factor(target)})² = {total}
    </p>
  ) : (
    <p>
      L = ({output.map((one, place) => `(${short(one.a)} − ${factor(walk.target[place] ?? 0)})²`).join(" + ")}) / {output.length} = {total}
    </p>
  );
}

interface DrawingProps {
  names: readonly string[];
  walk: Walk;
  step: Step;
  chosen: number;
  onChoose: (unit: number) => void;
}

const [COLUMN, LINE, RADIUS] = [150, 54, 21];
const [LETTER, MOST_LETTERS] = [7, 24]; // of the inputs' names

const shortened = (name: string): string => (name.length > MOST_LETTERS ? `${name.slice(0, MOST_LETTERS - 1)}…` : name);

/** The network with this row's numbers; the edges into the chosen unit carry theirs. */
function Drawing({ names, walk, step, chosen, onChoose }: DrawingProps) {
  const t = useText();
  const columns = [walk.inputs.length, ...walk.layers.map((units) => units.length)];
  const height = Math.max(...columns) * LINE + 24;
  const left = Math.max(50, RADIUS + 8 + LETTER * Math.max(...names.map((name) => shortened(name).length)));
  const x = (column: number) => left + column * COLUMN;
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
            {shortened(names[place] ?? "")}
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
