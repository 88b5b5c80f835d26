import { useQueryClient } from "@tanstack/react-query";
import { useId, useState } from "react";
import { resetDecision, setThreshold, useDecision } from "../api/models";
import type { DecidedOutput, DecisionDetail, ThresholdCurve } from "../api/types";
import { ConfusionMatrix } from "../charts/small";
import { number, percent } from "../format";
import { useText } from "../i18n";
import { cheapest, costOf, countsAt, measures, nearest, steps, type Costs } from "../spec/threshold";
import { Button, Card, ErrorView, Field, Loading, Notice, NumberInput, Segment, Stat } from "./basics";
import { showError, showMessage } from "./toasts";

/** How labels follow from the version's probabilities: what each threshold would do, and which one is in force. */
export function Decisions({ name, version }: { name: string; version: number }) {
  const decision = useDecision(name, version);
  if (decision.isPending) return <Loading />;
  if (decision.error) return <ErrorView error={decision.error} />;
  return decision.data.outputs.map((output) => <OutputDecision key={`${version} ${output.output}`} detail={decision.data} output={output} />);
}

type Made = Record<string, unknown>;

function OutputDecision({ detail, output }: { detail: DecisionDetail; output: DecidedOutput }) {
  const t = useText();
  const made = (detail.decisions as Made[]).find((one) => one.output === output.output);
  const title = t("threshold.title", { output: output.output });
  if (output.task === "multilabel" || output.labels.length !== 2) {
    const values = { output: output.output, n: output.labels.length };
    return (
      <Card title={title} level={3}>
        <Notice>{t(output.task === "multilabel" ? "threshold.multilabel" : "threshold.several", values)}</Notice>
      </Card>
    );
  }
  if (output.curves.length === 0) {
    return (
      <Card title={title} level={3}>
        <Notice>{t("threshold.norows")}</Notice>
      </Card>
    );
  }
  return <ThresholdSlider key={JSON.stringify(made)} title={title} detail={detail} output={output} made={made} />;
}

interface SliderProps {
  title: string;
  detail: DecisionDetail;
  output: DecidedOutput;
  made: Made | undefined;
}

function costsOf(made: Made | undefined): Costs {
  const asked = (made?.asked as { cost?: { false_positive?: number; false_negative?: number } } | undefined)?.cost;
  return { falsePositive: asked?.false_positive ?? 1, falseNegative: asked?.false_negative ?? 1 };
}

function ThresholdSlider({ title, detail, output, made }: SliderProps) {
  const t = useText();
  const id = useId();
  const queries = useQueryClient();
  const [part, setPart] = useState(output.curves[0]?.part ?? "");
  const curve = (output.curves.find((one) => one.part === part) ?? output.curves[0]) as ThresholdCurve;
  const known = typeof made?.threshold === "number" && made.label === curve.label ? made.threshold : null;
  const [threshold, setMoved] = useState(known ?? 0.5);
  const [costs, setCosts] = useState<Costs>(() => costsOf(made));
  const [busy, setBusy] = useState(false);
  const step = nearest(curve, threshold);
  const counts = countsAt(curve, step);
  const found = measures(counts);
  const rows = curve.positives + curve.negatives;
  const cost = costOf(counts, costs);
  const chosen = curve.threshold[step] ?? 0.5;
  const other = output.labels.find((label) => label !== curve.label) ?? "";
  const order = output.labels[0] === curve.label ? [1, 0] : [0, 1];
  const matrix = [
    [counts.trueNegative, counts.falsePositive],
    [counts.falseNegative, counts.truePositive],
  ];
  const arranged = order.map((row) => order.map((column) => matrix[row]?.[column] ?? 0));
  const save = (done: Promise<DecisionDetail>, message: string) => {
    setBusy(true);
    void done
      .then((now) => {
        queries.setQueryData(["decision", detail.model, detail.version], now);
        showMessage(message);
      })
      .catch(showError)
      .finally(() => setBusy(false));
  };
  const text = `${curve.label} ≥ ${number(chosen, 3)}`;
  return (
    <Card
      title={title}
      level={3}
      actions={
        output.curves.length > 1 && (
          <Segment
            label={t("threshold.rows")}
            value={curve.part}
            choices={output.curves.map((one) => ({ value: one.part, label: t(`part.${one.part as "validation" | "test"}`) }))}
            onChange={setPart}
          />
        )
      }
    >
      <div className="stack tight">
        <p className="small muted">
          {known === null
            ? t(made && made.method !== "likeliest" ? "threshold.other" : "threshold.likeliest", { label: curve.label, method: String(made?.method ?? "") })
            : t("threshold.inforce", { label: curve.label, threshold: number(known, 3) })}
        </p>
        <label htmlFor={id} className="row between">
          <span>{t("threshold.move", { label: curve.label, other })}</span>
          <strong className="num" data-testid="threshold">
            {number(chosen, 3)}
          </strong>
        </label>
        <input
          id={id}
          className="wide-range"
          type="range"
          min={0}
          max={steps(curve) - 1}
          step={1}
          value={step}
          aria-valuetext={text}
          onChange={(event) => setMoved(curve.threshold[Number(event.target.value)] ?? 0.5)}
        />
        <div className="threshold-figures" data-testid="threshold-figures">
          <ConfusionMatrix labels={output.labels} matrix={arranged} actual={t("evaluation.actual")} predicted={t("evaluation.prediction")} />
          <div className="stack tight">
            <div className="stats">
              <Stat name={t("threshold.precision")} value={percent(found.precision)} />
              <Stat name={t("threshold.recall")} value={percent(found.recall)} />
              <Stat name="F1" value={number(found.f1, 3)} />
              <Stat name={t("threshold.accuracy")} value={percent(found.accuracy)} />
              <Stat name={t("threshold.answered", { label: curve.label })} value={number(counts.truePositive + counts.falsePositive)} note={t("threshold.of", { n: number(rows) })} />
              <Stat name={t("threshold.cost")} value={number(cost)} note={t("threshold.perrow", { cost: number(rows > 0 ? cost / rows : null, 3) })} />
            </div>
            <div className="row">
              <Field label={t("threshold.falsepositive")}>
                {(own) => <NumberInput id={own} small value={costs.falsePositive} onChange={(value) => setCosts((old) => ({ ...old, falsePositive: Math.max(0, value ?? 0) }))} />}
              </Field>
              <Field label={t("threshold.falsenegative")}>
                {(own) => <NumberInput id={own} small value={costs.falseNegative} onChange={(value) => setCosts((old) => ({ ...old, falseNegative: Math.max(0, value ?? 0) }))} />}
              </Field>
              <Button small onPress={() => setMoved(curve.threshold[cheapest(curve, costs)] ?? 0.5)}>
                {t("threshold.cheapest")}
              </Button>
            </div>
          </div>
        </div>
        <div className="row">
          <Button
            tone="primary"
            disabled={busy || (known !== null && nearest(curve, known) === step)}
            onPress={() =>
              save(
                setThreshold(detail.model, detail.version, { output: output.output, label: curve.label, threshold: Math.min(1, chosen) }),
                t("threshold.saved", { label: curve.label, threshold: number(chosen, 3) }),
              )
            }
          >
            {t("threshold.use")}
          </Button>
          {detail.history.length > 0 && detail.history[0]?.asked != null && (
            <Button disabled={busy} onPress={() => save(resetDecision(detail.model, detail.version), t("threshold.back.done"))}>
              {t("threshold.back")}
            </Button>
          )}
        </div>
      </div>
    </Card>
  );
}
