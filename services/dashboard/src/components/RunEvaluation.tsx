import type { ReactNode } from "react";
import { useInsight } from "../api/runs";
import type { Evaluation, Hardest, Importance, RunDetail } from "../api/types";
import { Bars, ConfusionMatrix, XYChart } from "../charts/small";
import { number } from "../format";
import { named, useText } from "../i18n";
import { metricName } from "../i18n/metrics";
import { useSentence } from "../i18n/sentences";
import { factorOf, unitFactors } from "../spec/units";
import { about } from "./RunBits";
import { IntervalWidths } from "./IntervalWidths";
import { CalibrationTable } from "./Reliability";
import { RowList } from "./RowList";
import { RunSlices } from "./RunSlices";
import { Card, Empty, ErrorView, Loading, Scroll, Stat } from "./basics";

type Figures = Record<string, unknown>;

const isFigures = (value: unknown): value is Figures => value !== null && typeof value === "object" && !Array.isArray(value);
const numbers = (value: unknown): number[] => (Array.isArray(value) ? value.map(Number) : []);

/** The network's quality on held-out rows, compared with simpler models. */
export function RunEvaluation({ run }: { run: RunDetail }) {
  const t = useText();
  const evaluation = useInsight<Evaluation>(run.id, "evaluation", run.state === "succeeded");
  const importance = useInsight<Importance>(run.id, "importance", run.state === "succeeded");
  const hardest = useInsight<Hardest>(run.id, "hardest", run.state === "succeeded");
  if (run.state !== "succeeded") return <Empty title={t("evaluation.waiting")} />;
  if (evaluation.isPending) return <Loading />;
  const metrics = isFigures(run.result?.metrics) ? run.result.metrics : {};
  return (
    <div className="stack">
      <FinalMetrics metrics={metrics} factors={unitFactors(run.result)} isCalibrated={hasCalibration(run.result)} />
      {isFigures(run.result?.ensemble) && <EnsembleGain ensemble={run.result.ensemble} />}
      {evaluation.error && <ErrorView error={evaluation.error} />}
      {evaluation.data &&
        partsOf(evaluation.data).map(({ title, figures }) => (
          <TargetFigures key={title} title={title} part={evaluation.data?.part ?? "test"} figures={figures} />
        ))}
      <IntervalWidths intervals={run.result?.intervals} labels={labelCounts(evaluation.data ?? null)} />
      <RunSlices run={run} />
      {importance.data && <ImportanceView data={importance.data} />}
      {hardest.data && <HardestView data={hardest.data} dataset={about(run.resolved).dataset} />}
    </div>
  );
}

/** Whether the probabilities of any target were calibrated after training. */
function hasCalibration(result: RunDetail["result"]): boolean {
  const calibration = isFigures(result?.calibration) ? result.calibration : {};
  return Object.values(calibration).some((one) => isFigures(one) && typeof one.method === "string");
}

/** How many labels each classified target has. */
function labelCounts(evaluation: Evaluation | null): Record<string, number> {
  const parts = evaluation ? partsOf(evaluation) : [];
  return Object.fromEntries(parts.flatMap(({ title, figures }) => (Array.isArray(figures.labels) ? [[title, figures.labels.length] as const] : [])));
}

interface FinalMetricsProps {
  metrics: Figures;
  factors: ReadonlyMap<string, number>;
  isCalibrated: boolean;
}

function FinalMetrics({ metrics, factors, isCalibrated }: FinalMetricsProps) {
  const t = useText();
  const parts = ["train", "validation", "test"].filter((part) => isFigures(metrics[part]));
  const names = [...new Set(parts.flatMap((part) => Object.keys(metrics[part] as Figures)))];
  if (parts.length === 0) return null;
  return (
    <Card title={t("evaluation.metrics")} bare>
      {isCalibrated && <p className="card-lead small muted">{t("evaluation.uncalibrated")}</p>}
      <Scroll>
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t("metric")}</th>
              {parts.map((part) => (
                <th scope="col" key={part} className="num">
                  {t(`part.${part as "train" | "validation" | "test"}`)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {names.map((name) => (
              <tr key={name}>
                <td>{metricName(name)}</td>
                {parts.map((part) => (
                  <td key={part} className="num">
                    {number(Number((metrics[part] as Figures)[name]) * factorOf(factors, name))}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

/** What an ensemble gained over one of its members, on rows that none of them saw. */
function EnsembleGain({ ensemble }: { ensemble: Figures }) {
  const t = useText();
  const gain = isFigures(ensemble.gain) ? ensemble.gain : {};
  const targets = Object.entries(isFigures(gain.targets) ? gain.targets : {}).filter((one): one is [string, Figures] => isFigures(one[1]));
  const how = ensemble.validation === "folds" ? "evaluation.ensemble.folds" : "evaluation.ensemble.holdout";
  return (
    <Card title={t("evaluation.ensemble", { members: number(Number(ensemble.members)) })}>
      <p>{t(how)}</p>
      {targets.map(([name, figures]) => {
        const [low, high] = numbers(figures.interval);
        const worse = low !== undefined && high !== undefined ? `${number(-high, 3)} – ${number(-low, 3)}` : undefined;
        return (
          <div className="stats" key={name}>
            <Stat name={`${name}: ${metricName(String(figures.measure)).replaceAll("_", " ")}`} value={number(Number(figures.ensemble))} />
            <Stat name={t("evaluation.ensemble.one")} value={number(Number(figures.one_member))} />
            <Stat name={t("evaluation.ensemble.gain")} value={number(-Number(figures.difference))} note={worse} />
          </div>
        );
      })}
    </Card>
  );
}

/** Each target's figures on the test part, or on the validation part if there is no test part. */
export function partsOf(evaluation: Evaluation): { title: string; figures: Figures }[] {
  const found = (evaluation.part === "test" ? evaluation.test : evaluation.validation) ?? evaluation.test ?? evaluation.validation ?? {};
  return Object.entries(found).map(([title, figures]) => ({ title, figures }));
}

const HEAD = ["accuracy", "balanced_accuracy", "roc_auc", "f1_macro", "log_loss", "brier", "rmse", "mae", "r2"] as const;

function TargetFigures({ title, part, figures }: { title: string; part: Evaluation["part"]; figures: Figures }) {
  const t = useText();
  const say = useSentence();
  const intervals = isFigures(figures.intervals) ? figures.intervals : {};
  const labels = Array.isArray(figures.labels) ? figures.labels.map(String) : [];
  const confusion = Array.isArray(figures.confusion) ? (figures.confusion as unknown[]).map(numbers) : null;
  const byLabel = Array.isArray(figures.by_label) ? figures.by_label.filter(isFigures) : [];
  const drawn = (entries: Figures[]) => (entries.length === 2 ? entries.slice(1) : entries.slice(0, 5));
  const curves = drawn(byLabel);
  const calibrated = isFigures(figures.calibrated) ? figures.calibrated : {};
  const before = isFigures(calibrated.before) && Array.isArray(calibrated.before.by_label) ? drawn(calibrated.before.by_label.filter(isFigures)) : [];
  const errorOf = (of: unknown) => number(Number(isFigures(of) ? of.calibration_error : NaN), 3);
  const calibration =
    calibrated.method === null
      ? t("evaluation.calibration.none", { why: say(String(calibrated.why)) })
      : isFigures(calibrated.before)
        ? t("evaluation.calibration.changed", { method: String(calibrated.method), before: errorOf(calibrated.before), after: errorOf(calibrated.after) })
        : undefined;
  const predicted = isFigures(figures.predicted_actual) ? figures.predicted_actual : null;
  return (
    <div className="stack">
      <Card title={t(part === "test" ? "evaluation.unseen" : "evaluation.heldout", { target: title })}>
        <div className="stats">
          {HEAD.filter((name) => typeof figures[name] === "number").map((name) => {
            const [low, high] = numbers(intervals[name]);
            return (
              <Stat
                key={name}
                name={metricName(name).replaceAll("_", " ")}
                value={number(figures[name] as number)}
                note={low !== undefined && high !== undefined ? `${number(low, 3)} – ${number(high, 3)}` : undefined}
              />
            );
          })}
        </div>
        <References figures={figures} />
      </Card>
      <div className="grid two">
        {confusion && labels.length > 0 && (
          <Card title={t("evaluation.confusion")} level={3}>
            <Scroll>
              <ConfusionMatrix labels={labels} matrix={confusion} actual={t("evaluation.actual")} predicted={t("evaluation.prediction")} />
            </Scroll>
          </Card>
        )}
        {byLabel.length > 0 && (
          <Card title={t("evaluation.bylabel")} level={3} bare>
            <Scroll>
              <table className="table dense">
                <thead>
                  <tr>
                    <th scope="col">{t("label")}</th>
                    {["precision", "recall", "f1", "support"].map((name) => (
                      <th key={name} scope="col" className="num">
                        {metricName(name)}
                      </th>
                    ))}
                  </tr>
                </thead>
                <tbody>
                  {byLabel.map((entry) => (
                    <tr key={String(entry.label)}>
                      <td>{String(entry.label)}</td>
                      {["precision", "recall", "f1", "support"].map((name) => (
                        <td key={name} className="num">
                          {number(Number(entry[name]), 3)}
                        </td>
                      ))}
                    </tr>
                  ))}
                </tbody>
              </table>
            </Scroll>
          </Card>
        )}
        <LabelCurves title="ROC" labels={curves} part="roc" x="false_positive" y="true_positive" diagonal />
        <LabelCurves title={t("evaluation.pr")} labels={curves} part="pr" x="recall" y="precision" />
        <LabelCurves title={t("evaluation.calibration")} labels={curves} part="calibration" x="predicted" y="observed" diagonal before={before} note={calibration} />
        <CalibrationTable calibrated={calibrated} />
        {predicted && <PredictedActual predicted={numbers(predicted.predicted)} actual={numbers(predicted.actual)} />}
        {Array.isArray(figures.residuals) && <Residuals rows={figures.residuals.filter(isFigures)} />}
      </div>
    </div>
  );
}

/** Scores of guessing, a linear model and boosted trees on the same rows. */
function References({ figures }: { figures: Figures }) {
  const t = useText();
  const references = Object.entries(isFigures(figures.references) ? figures.references : {}).filter((entry): entry is [string, Figures] => isFigures(entry[1]));
  const metric = HEAD.find((name) => typeof figures[name] === "number");
  if (references.length === 0 || metric === undefined) return null;
  const bars = [
    { label: t("evaluation.network"), value: Number(figures[metric]) },
    ...references.map(([name, inner]) => ({ label: named("reference", name, t), value: Number(inner[metric]), color: "var(--ink-3)" })),
  ].filter((bar) => Number.isFinite(bar.value));
  return (
    <div className="references">
      <Bars label={t("evaluation.references", { metric: metricName(metric).replaceAll("_", " ") })} bars={bars} />
      <span className="small faint">{t("evaluation.references", { metric: metricName(metric).replaceAll("_", " ") })}</span>
    </div>
  );
}

const COLORS = ["var(--train)", "var(--valid)", "var(--third)", "var(--fourth)", "var(--fifth)"];

interface LabelCurvesProps {
  title: string;
  labels: readonly Figures[];
  part: string;
  x: string;
  y: string;
  diagonal?: boolean;
  before?: readonly Figures[];
  note?: string;
}

function LabelCurves({ title, labels, part, x, y, diagonal, before = [], note }: LabelCurvesProps): ReactNode {
  const t = useText();
  const linesOf = (entries: readonly Figures[], dash: boolean) =>
    entries.flatMap((entry, index) => {
      const curve = entry[part];
      if (!isFigures(curve)) return [];
      const ys = numbers(curve[y]);
      const label = dash ? t("evaluation.calibration.before", { label: String(entry.label) }) : String(entry.label);
      return [{ label, dash, color: COLORS[index % COLORS.length] ?? "var(--train)", points: numbers(curve[x]).map((value, at) => ({ x: value, y: ys[at] ?? 0 })) }];
    });
  const lines = [...linesOf(labels, false), ...linesOf(before, true)];
  if (lines.length === 0) return null;
  const half = { label: "", color: "var(--ink-3)", dash: true, points: [{ x: 0, y: 0 }, { x: 1, y: 1 }] };
  return (
    <Card title={title} level={3}>
      <XYChart label={title} lines={diagonal ? [half, ...lines] : lines} x={[0, 1]} y={[0, 1]} xLabel={named("rowlist", x, t)} yLabel={named("rowlist", y, t)} />
      {note && <p className="small">{note}</p>}
      <div className="legend">
        {lines.map((line) => (
          <span key={line.label}>
            <i style={{ background: line.color, opacity: line.dash ? 0.5 : 1 }} />
            {line.label}
          </span>
        ))}
      </div>
    </Card>
  );
}

function PredictedActual({ predicted, actual }: { predicted: number[]; actual: number[] }) {
  const t = useText();
  const all = [...predicted, ...actual];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return (
    <Card title={t("evaluation.predicted")} level={3}>
      <XYChart
        label={t("evaluation.predicted")}
        lines={[
          { label: "", color: "var(--ink-3)", dash: true, points: [{ x: low, y: low }, { x: high, y: high }] },
          { label: "rows", color: "var(--train)", dots: true, points: actual.map((x, index) => ({ x, y: predicted[index] ?? 0 })) },
        ]}
        x={[low, high]}
        y={[low, high]}
        xLabel={t("evaluation.actual")}
        yLabel={t("evaluation.prediction")}
        size={300}
      />
    </Card>
  );
}

function Residuals({ rows }: { rows: readonly Figures[] }) {
  const t = useText();
  return (
    <Card title={t("evaluation.residuals")} level={3}>
      <Bars label={t("evaluation.residuals")} bars={rows.map((row) => ({ label: `${number(Number(row.from), 3)} – ${number(Number(row.to), 3)}`, value: Number(row.mean), text: `${number(Number(row.mean), 3)} (±${number(Number(row.rmse), 3)})` }))} />
    </Card>
  );
}

function ImportanceView({ data }: { data: Importance }) {
  const t = useText();
  if (data.items.length === 0) return null;
  return (
    <Card title={t("importance.title")}>
      <div className="stack tight">
        <p className="muted small">{t("importance.lead")}</p>
        <Bars
          label={t("importance.title")}
          bars={data.items.slice(0, 25).map((entry) => ({
            label: String(entry.column),
            value: Number(entry.importance),
            text: `${number(Number(entry.importance), 3)}  [${number(Number(entry.low), 2)}, ${number(Number(entry.high), 2)}]`,
          }))}
        />
      </div>
    </Card>
  );
}

function HardestView({ data, dataset }: { data: Hardest; dataset: string }) {
  const t = useText();
  const numeric = data.items.some((entry) => "residual" in entry); // a number is not labelled wrongly
  return (
    <div className="grid two">
      <RowList title={t(numeric ? "hardest.residuals" : "hardest.title")} rows={data.items} dataset={dataset} />
      <RowList title={t(numeric ? "hardest.outliers" : "hardest.mislabelled", { n: data.mislabelled_rows })} rows={data.mislabelled} dataset={dataset} />
    </div>
  );
}
