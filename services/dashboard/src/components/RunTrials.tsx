import { useState } from "react";
import { useNavigate } from "react-router";
import type { Live } from "../api/live";
import { trialSpec, useTrials } from "../api/trials";
import type { RunDetail, TrialInfo } from "../api/types";
import { CurveChart, type Curve } from "../charts/CurveChart";
import { axisOf, ParallelCoordinates } from "../charts/ParallelCoordinates";
import { Bars } from "../charts/small";
import { cell, number, percent } from "../format";
import { useText, type Key } from "../i18n";
import { write, type JsonObject } from "../spec/document";
import { Badge, Button, Card, Empty, ErrorView, Loading, Scroll, Stat, type Tone } from "./basics";
import { showError } from "./toasts";

interface SearchSettings {
  metric?: string;
  direction?: "min" | "max";
}

const TONES: Record<TrialInfo["state"], Tone> = { succeeded: "good", pruned: "plain", failed: "bad", running: "info" };

/** Whether a run is a search, an ablation among them. */
export const isSearch = (run: RunDetail): boolean => typeof run.resolved.search === "object" && run.resolved.search !== null;

/** The trials of a search: the history of the best, what matters, a line for each, a sortable table, their curves. */
export function RunTrials({ run, live, running }: { run: RunDetail; live: Live; running: boolean }) {
  const t = useText();
  const found = useTrials(run.id, running);
  const [chosen, setChosen] = useState<number | null>(null);
  if (found.isPending) return <Loading />;
  if (found.error) return <ErrorView error={found.error} />;
  const trials = found.data;
  if (trials.length === 0) {
    return (
      <Card>
        <Empty title={t("trials.none")} />
      </Card>
    );
  }
  const settings = run.resolved.search as SearchSettings;
  const metric = settings.metric ?? "val_loss";
  const larger = settings.direction === "max";
  const best = bestOf(trials, larger);
  const shown = chosen ?? best?.trial ?? null;
  return (
    <div className="stack">
      <Card>
        <div className="stats">
          <Stat
            name={t("trials.best", { metric })}
            value={number(best?.value ?? null)}
            {...(best && { note: t("trials.best.of", { n: best.trial + 1 }) })}
          />
          {(["succeeded", "pruned", "failed", "running"] as const).map((state) => (
            <Stat key={state} name={t(`trials.state.${state}` as Key)} value={trials.filter((trial) => trial.state === state).length} />
          ))}
        </div>
      </Card>
      <div className="grid two">
        <History trials={trials} metric={metric} larger={larger} />
        <Importance run={run} />
      </div>
      <Parallel trials={trials} metric={metric} larger={larger} chosen={shown} />
      <TrialTable run={run} trials={trials} metric={metric} chosen={shown} onChoose={setChosen} />
      {shown !== null && <TrialCurves live={live} trial={shown} />}
    </div>
  );
}

const ended = (trial: TrialInfo): trial is TrialInfo & { value: number } => trial.state === "succeeded" && trial.value !== null;

function bestOf(trials: readonly TrialInfo[], larger: boolean): TrialInfo | null {
  const sign = larger ? -1 : 1;
  return trials.filter(ended).reduce<(TrialInfo & { value: number }) | null>((held, trial) => (held === null || sign * trial.value < sign * held.value ? trial : held), null);
}

function History({ trials, metric, larger }: { trials: readonly TrialInfo[]; metric: string; larger: boolean }) {
  const t = useText();
  const best = trials.map((_, index) => bestOf(trials.slice(0, index + 1), larger)?.value ?? null);
  const each = trials.map((trial) => (ended(trial) ? trial.value : null));
  const curves: Curve[] = [
    { label: t("trials.each"), values: each, color: "--train", faint: true },
    { label: t("trials.history"), values: best, color: "--valid", width: 2 },
  ];
  return (
    <Card title={`${t("trials.history")}: ${metric}`}>
      <CurveChart label={`${t("trials.history")}: ${metric}`} x={trials.map((trial) => trial.trial + 1)} curves={curves} height={220} xLabel={t("trials.number")} />
    </Card>
  );
}

function Importance({ run }: { run: RunDetail }) {
  const t = useText();
  const summary = run.result?.search as { importance?: Record<string, number> } | undefined;
  const shares = Object.entries(summary?.importance ?? {}).sort((a, b) => b[1] - a[1]);
  return (
    <Card title={t("trials.importance")}>
      <p className="muted small">{t("trials.importance.text")}</p>
      {shares.length > 0 && <Bars label={t("trials.importance")} max={1} bars={shares.map(([label, value]) => ({ label, value, text: percent(value) }))} />}
    </Card>
  );
}

function Parallel({ trials, metric, larger, chosen }: { trials: readonly TrialInfo[]; metric: string; larger: boolean; chosen: number | null }) {
  const t = useText();
  const done = trials.filter(ended);
  const names = namesOf(trials);
  if (done.length < 2 || names.length === 0) return null;
  const ranked = [...done].sort((a, b) => (larger ? a.value - b.value : b.value - a.value));
  const good = done.map((trial) => ranked.indexOf(trial) / (done.length - 1));
  const axes = [...names.map((name) => axisOf(name, done.map((trial) => trial.values[name]))), axisOf(metric, done.map((trial) => trial.value))];
  const at = done.findIndex((trial) => trial.trial === chosen);
  return (
    <Card title={t("trials.parallel")}>
      <p className="muted small">{t("trials.parallel.text")}</p>
      <Scroll label={t("trials.parallel")}>
        <ParallelCoordinates label={t("trials.parallel")} axes={axes} good={good} chosen={at < 0 ? null : at} />
      </Scroll>
    </Card>
  );
}

const namesOf = (trials: readonly TrialInfo[]): string[] => [...new Set(trials.flatMap((trial) => Object.keys(trial.values)))];

interface Column {
  id: string;
  title: string;
  of: (trial: TrialInfo) => unknown;
}

interface TableProps {
  run: RunDetail;
  trials: readonly TrialInfo[];
  metric: string;
  chosen: number | null;
  onChoose: (trial: number) => void;
}

function TrialTable({ run, trials, metric, chosen, onChoose }: TableProps) {
  const t = useText();
  const go = useNavigate();
  const [sort, setSort] = useState<{ id: string; down: boolean }>({ id: "trial", down: false });
  const columns: Column[] = [
    { id: "trial", title: t("trials.number"), of: (trial) => trial.trial + 1 },
    { id: "state", title: t("trials.state"), of: (trial) => t(`trials.state.${trial.state}` as Key) },
    { id: "value", title: metric, of: (trial) => trial.value },
    ...namesOf(trials).map((name) => ({ id: `=${name}`, title: name, of: (trial: TrialInfo) => trial.values[name] })),
    { id: "epochs", title: t("trials.epochs"), of: (trial) => trial.epochs },
    { id: "seconds", title: t("trials.seconds"), of: (trial) => trial.seconds },
    { id: "reason", title: t("trials.reason"), of: (trial) => trial.reason },
  ];
  const by = columns.find((column) => column.id === sort.id) ?? columns[0];
  const rows = by ? [...trials].sort((a, b) => (sort.down ? -1 : 1) * compare(by.of(a), by.of(b))) : trials;
  const take = (trial: number) =>
    void trialSpec(run.id, trial)
      .then((spec) => go(`/new?spec=${encodeURIComponent(write(spec as JsonObject))}`))
      .catch(showError);
  return (
    <Card title={t("trials.table")} bare>
      <Scroll label={t("trials.table")}>
        <table className="table dense" aria-label={t("trials.table")}>
          <thead>
            <tr>
              {columns.map((column) => (
                <th key={column.id} aria-sort={column.id !== sort.id ? "none" : sort.down ? "descending" : "ascending"}>
                  <Button small tone="quiet" onPress={() => setSort({ id: column.id, down: column.id === sort.id && !sort.down })}>
                    {column.title}
                    {column.id === sort.id && <span aria-hidden="true">{sort.down ? " ↓" : " ↑"}</span>}
                  </Button>
                </th>
              ))}
              <th>
                <span className="visually-hidden">{t("trials.take")}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map((trial) => (
              <tr key={trial.trial} {...(trial.trial === chosen && { className: "chosen" })}>
                {columns.map((column) => (
                  <td key={column.id}>{column.id === "trial" ? <Show trial={trial} onChoose={onChoose} /> : column.id === "state" ? <Badge tone={TONES[trial.state]}>{cell(column.of(trial))}</Badge> : <Value value={column.of(trial)} />}</td>
                ))}
                <td>
                  <Button small label={t("trials.take.of", { n: trial.trial + 1 })} onPress={() => take(trial.trial)}>
                    {t("trials.take")}
                  </Button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

function Show({ trial, onChoose }: { trial: TrialInfo; onChoose: (trial: number) => void }) {
  const t = useText();
  return (
    <Button small tone="quiet" label={t("trials.show", { n: trial.trial + 1 })} onPress={() => onChoose(trial.trial)}>
      {trial.trial + 1}
    </Button>
  );
}

function Value({ value }: { value: unknown }) {
  if (value === null || value === undefined) return null;
  if (typeof value === "number") return <span className="num">{number(value)}</span>;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return <span title={text}>{text.length > 60 ? `${text.slice(0, 59)}…` : text}</span>;
}

/** Numbers by size, all else by its text; what is missing comes last. */
function compare(one: unknown, other: unknown): number {
  if (one === null || one === undefined) return other === null || other === undefined ? 0 : 1;
  if (other === null || other === undefined) return -1;
  if (typeof one === "number" && typeof other === "number") return one - other;
  return JSON.stringify(one).localeCompare(JSON.stringify(other));
}

function TrialCurves({ live, trial }: { live: Live; trial: number }) {
  const t = useText();
  const { table } = live;
  const [metric, setMetric] = useState("loss");
  const names = table.metrics.filter((name) => !name.startsWith("val_") && !/^(learning_rate|lr|epoch)$/.test(name));
  const length = table.series(trial, metric, table.lastEpoch).reduce<number>((last, value, index) => (value === null ? last : index + 1), 0);
  const title = t("trials.curves", { n: trial + 1 });
  if (length === 0) {
    return (
      <Card title={title}>
        <Empty title={t("trials.curves.none")} />
      </Card>
    );
  }
  const curves: Curve[] = [
    { label: metric, values: table.series(trial, metric, length), color: "--train", width: 2 },
    ...(table.metrics.includes(`val_${metric}`) ? [{ label: `val_${metric}`, values: table.series(trial, `val_${metric}`, length), color: "--valid", width: 2 }] : []),
  ];
  return (
    <Card
      title={title}
      actions={names.map((name) => (
        <Button key={name} small {...(name !== metric && { tone: "quiet" as const })} onPress={() => setMetric(name)}>
          {name}
        </Button>
      ))}
    >
      <CurveChart label={`${title}: ${metric}`} x={Array.from({ length }, (_, index) => index + 1)} curves={curves} height={240} />
    </Card>
  );
}
