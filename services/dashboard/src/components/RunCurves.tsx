import { useMemo } from "react";
import { Link, useSearchParams } from "react-router";
import type { Live } from "../api/live";
import type { RunDetail } from "../api/types";
import { best, modeOf, smooth } from "../charts/curves";
import { CurveChart, type Curve, type Mark } from "../charts/CurveChart";
import { number } from "../format";
import { useText } from "../i18n";
import { metricName } from "../i18n/metrics";
import { Card, Check, Empty, Loading, Select, Stat } from "./basics";
import { plainMetric, shortId } from "./RunBits";
import { isStandardized, unitFactors } from "../spec/units";
import { ForkButton, useBefore, type Before } from "./runs/Fork";

const RATE = /^(learning_rate|lr)$/;
const MOST_TRIALS = 60;

/** Loss and metrics over epochs: the best trial in colour, the others faint behind it, the best epoch marked. */
export function RunCurves({ run, live: recorded, running, best, kept }: { run: RunDetail; live: Live; running: boolean; best: number | null; kept: ReadonlyMap<number, number> }) {
  const t = useText();
  const factors = useMemo(() => unitFactors(run.result), [run.result]);
  const [query, setQuery] = useSearchParams();
  const scaled = useMemo(() => recorded.table.scaled(factors), [recorded.table, factors]);
  const live = { ...recorded, table: scaled };
  const { table, version } = live;
  const log = query.get("log") === "1";
  const weight = Number(query.get("smooth") ?? 0);
  const set = (name: string, value: string | null) =>
    setQuery(
      (old) => {
        const next = new URLSearchParams(old);
        if (value === null) next.delete(name);
        else next.set(name, value);
        return next;
      },
      { replace: true },
    );
  const names = useMemo(() => {
    void version;
    return [...new Set(table.metrics.filter((name) => !RATE.test(name) && name !== "epoch").map(plainMetric))];
  }, [table, version]);
  const others = names.filter((name) => name !== "loss");
  const metric = query.get("metric") ?? others[0] ?? "";
  const judged = table.metrics.includes("val_loss") ? "val_loss" : "loss";
  const winner = useMemo(() => {
    void version;
    return best ?? table.bestTrial(judged);
  }, [table, judged, best, version]);
  const parent = useBefore(run, winner);
  const before = parent && { ...parent, table: parent.table.scaled(factors) };
  const rate = table.metrics.find((name) => RATE.test(name));
  if (names.length === 0) {
    return (
      <Card>
        {live.loaded ? <Empty title={running ? t("curves.waiting") : t("curves.none")} /> : <Loading />}
      </Card>
    );
  }
  // What is served are the kept weights, so an ended run shows their figures.
  const keptEpoch = running ? undefined : kept.get(winner);
  const shown = keptEpoch === undefined ? table.last(winner) : table.at(winner, keptEpoch);
  const trials = table.trialNumbers.length;
  const titled = (name: string) => (factors.size === 0 && isStandardized(run.resolved, name) ? t("curves.standardized", { metric: metricName(name) }) : metricName(name));
  const epochNote =
    [keptEpoch !== undefined && keptEpoch < table.lastEpoch && t("curves.kept", { epochs: table.lastEpoch }), trials > 1 && t("curves.trials", { n: trials, best: winner + 1 })]
      .filter(Boolean)
      .join(" · ") || undefined;
  return (
    <div className="stack">
      <div className="card">
        <div className="body row between wrap">
          <div className="stats">
            {names.slice(0, 3).map((name) => (
              <Stat
                key={name}
                name={shown[`val_${name}`] !== undefined ? t("curves.val", { metric: titled(name) }) : titled(name)}
                value={number(shown[`val_${name}`] ?? shown[name])}
                note={shown[`val_${name}`] !== undefined ? t("curves.train.value", { value: number(shown[name]) }) : undefined}
              />
            ))}
            <Stat name={t("epoch")} value={number(keptEpoch ?? table.lastEpoch)} note={epochNote} />
          </div>
          <div className="row">
            <Check label={t("curves.log")} checked={log} onChange={(on) => set("log", on ? "1" : null)} />
            <Select
              small
              hideLabel
              label={t("curves.smooth")}
              value={String(weight)}
              choices={[{ value: "0", label: t("curves.smooth.none") }, ...["0.5", "0.8", "0.9", "0.95"].map((one) => ({ value: one, label: `${t("curves.smooth")} ${one}` }))]}
              onChange={(value) => set("smooth", value === "0" ? null : value)}
            />
            <ForkButton run={run} last={lastOf(table, winner)} kept={kept.get(winner)} />
          </div>
        </div>
      </div>
      {before && run.parent_id && (
        <p className="small muted">
          {t("fork.of", { after: before.fork.after, optimizer: before.fork.optimizer, rate: number(before.fork.rate) })}{" "}
          <Link to={`/runs/${encodeURIComponent(run.parent_id)}`}>{shortId(run.parent_id)}</Link>
        </p>
      )}
      <MetricChart live={live} before={before} metric="loss" title={metricName("loss")} winner={winner} log={log} weight={weight} height={330} />
      <div className="grid two">
        {metric !== "" && names.includes(metric) && (
          <MetricChart
            live={live}
            before={before}
            metric={metric}
            title={titled(metric)}
            winner={winner}
            log={log && modeOf(metric) === "min"}
            weight={weight}
            height={220}
            chooser={
              others.length > 1 ? <Select small hideLabel label={t("metric")} value={metric} choices={others.map((value) => ({ value, label: metricName(value) }))} onChange={(value) => set("metric", value)} /> : undefined
            }
          />
        )}
        {rate && <RateChart live={live} name={rate} winner={winner} />}
      </div>
    </div>
  );
}

/** The last epoch of a trial. */
function lastOf(table: Live["table"], trial: number): number {
  const values = table.series(trial, "loss", table.lastEpoch);
  return values.findLastIndex((value) => value !== null) + 1;
}

interface ChartProps {
  live: Live;
  before: Before | null;
  metric: string;
  title: string;
  winner: number;
  log: boolean;
  weight: number;
  height: number;
  chooser?: React.ReactNode;
}

function MetricChart({ live, before, metric, title, winner, log, weight, height, chooser }: ChartProps) {
  const t = useText();
  const { table, version } = live;
  const { x, curves, marks } = useMemo(() => {
    void version;
    const length = Math.max(table.lastEpoch, before?.table.lastEpoch ?? 0);
    const val = `val_${metric}`;
    const hasVal = table.metrics.includes(val);
    const faint = table.trialNumbers
      .filter((trial) => trial !== winner)
      .slice(0, MOST_TRIALS)
      .map((trial): Curve => ({ label: `${trial}`, values: table.series(trial, hasVal ? val : metric, length), color: hasVal ? "--valid" : "--train", width: 1, faint: true, silent: true }));
    const line = (name: string, label: string, color: string): Curve[] => {
      const raw = table.series(winner, name, length);
      if (weight <= 0) return [{ label, values: raw, color }];
      return [
        { label: `${label} (raw)`, values: raw, color, width: 1, faint: true, silent: true },
        { label, values: smooth(raw, weight), color },
      ];
    };
    const parent: Curve[] = before
      ? [
          { label: t("fork.before.train"), values: before.table.series(before.trial, metric, length), color: "--train", width: 1.5, dash: [5, 4] },
          ...(hasVal ? [{ label: t("fork.before.validation"), values: before.table.series(before.trial, val, length), color: "--valid", width: 1.5, dash: [5, 4] }] : []),
        ]
      : [];
    const drawn = [...faint, ...parent, ...line(metric, t("curves.train"), "--train"), ...(hasVal ? line(val, t("curves.validation"), "--valid") : [])];
    const found: Mark[] = before ? [{ x: before.fork.after, label: t("fork.mark", { after: before.fork.after }), color: "--third" }] : [];
    if (hasVal && length > 2) {
      const turn = best(table.series(winner, val, length), modeOf(metric));
      if (turn !== null && turn + 1 < length) found.push({ x: turn + 1, label: t("curves.lowest", { epoch: turn + 1 }), color: "--valid" });
    }
    return { x: Array.from({ length }, (_, index) => index + 1), curves: drawn, marks: found };
  }, [table, version, before, metric, winner, weight, t]);
  return (
    <Card title={title} actions={chooser}>
      <CurveChart label={title} x={x} curves={curves} marks={marks} log={log} height={height} xLabel={t("epoch")} sync="run" />
    </Card>
  );
}

function RateChart({ live, name, winner }: { live: Live; name: string; winner: number }) {
  const t = useText();
  const { table, version } = live;
  const { x, curves } = useMemo(() => {
    void version;
    const length = table.lastEpoch;
    const values = table.series(winner, name, length);
    return { x: values.map((_, index) => index + 1), curves: [{ label: t("curves.rate"), values, color: "--third" }] };
  }, [table, version, name, winner, t]);
  return (
    <Card title={t("curves.rate")}>
      <CurveChart label={t("curves.rate")} x={x} curves={curves} log={false} height={220} xLabel={t("epoch")} sync="run" />
    </Card>
  );
}
