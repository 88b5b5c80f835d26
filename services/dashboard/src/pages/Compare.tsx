import { useQueries } from "@tanstack/react-query";
import { useMemo } from "react";
import { Link, useSearchParams } from "react-router";
import { allEpochs, isLive, useRunDetails, useRuns } from "../api/runs";
import type { RunDetail } from "../api/types";
import { CurveChart, type Curve } from "../charts/CurveChart";
import { SERIES } from "../charts/colors";
import { best, EpochTable, modeOf } from "../charts/curves";
import { Card, Check, Empty, Loading, Notice, Scroll, Select } from "../components/basics";
import { CompareMany, keptFigure } from "../components/runs/CompareMany";
import { about, keptEpochs, plainMetric, shortId, StateBadge } from "../components/RunBits";
import { number } from "../format";
import { useText } from "../i18n";
import { metricName } from "../i18n/metrics";
import { differences, verdict } from "../spec/compare";
import { isStandardized, unitFactors } from "../spec/units";
import { useInAddress } from "../state/address";
import { lastList } from "../state/lastList";

const MOST = 100;
const MOST_CURVES = 20; // beyond them, colours repeat and epochs are many: figures are those of the kept weights

/** Runs side by side: curves, differences between their specs, and whether results differ by more than chance. */
export default function Compare() {
  const t = useText();
  const [query, setQuery] = useSearchParams();
  const ids = useMemo(() => (query.get("runs") ?? "").split(",").filter(Boolean).slice(0, MOST), [query]);
  const runs = useRunDetails(ids);
  const found = (runs.data ?? []).filter((run) => ids.includes(run.id));
  const live = new Set(found.filter(isLive).map((run) => run.id));
  const epochs = useQueries({
    queries: ids.slice(0, MOST_CURVES).map((id) => ({
      queryKey: ["epochs", "table", id],
      queryFn: async ({ signal }: { signal: AbortSignal }) => {
        const table = new EpochTable();
        table.add(await allEpochs(id, signal));
        return table;
      },
      refetchInterval: live.has(id) ? 1500 : (false as const),
      structuralSharing: false,
    })),
  });
  const log = query.get("log") === "1";
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
  // One chart has one unit: the target's, once all runs have ended and say what it is.
  const factors = new Map(found.map((run) => [run.id, unitFactors(run.result)]));
  const standardized = (name: string) => found.some((run) => isStandardized(run.resolved, name) && factors.get(run.id)?.size === 0);
  const metrics = [...new Set(epochs.map((one) => one.data ?? null).flatMap((table) => table?.metrics ?? []))].filter((name) => !/^(learning_rate|lr|epoch)$/.test(name));
  const metric = query.get("metric") ?? (metrics.includes("val_loss") ? "val_loss" : (metrics[0] ?? "loss"));
  const names = namesOf(found);
  const title = standardized(metric) ? t("curves.standardized", { metric: metricName(metric) }) : metricName(metric);
  const tables = epochs.map((one, index) => one.data?.scaled((!standardized(metric) && factors.get(ids[index] ?? "")) || new Map()) ?? null);
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <div className="crumbs">
            <Link to={lastList()}>{t("nav.runs")}</Link>
          </div>
          <h1>{t("compare.title")}</h1>
        </div>
        <AddRun ids={ids} onAdd={(id) => set("runs", [...ids, id].join(","))} />
      </div>
      {ids.length === 0 && <Empty title={t("compare.none")} />}
      {ids.length > 0 && runs.isPending && <Loading />}
      {found.length > 0 && (
        <>
          <Card
            title={title}
            actions={
              <>
                <Check label={t("curves.log")} checked={log} onChange={(on) => set("log", on ? "1" : null)} />
                <Select small hideLabel label={t("metric")} value={metric} choices={(metrics.length > 0 ? metrics : [metric]).map((value) => ({ value, label: metricName(value) }))} onChange={(value) => set("metric", value)} />
              </>
            }
          >
            <Curves ids={ids} names={names} tables={tables} metric={metric} log={log} />
            {ids.length > MOST_CURVES && <p className="small muted">{t("compare.curves", { n: MOST_CURVES, of: ids.length })}</p>}
          </Card>
          <CompareMany runs={found} metric={metric} />
          <Figures runs={found} names={names} tables={tables} ids={ids} metric={metric} kept={!standardized(metric)} onRemove={(id) => set("runs", ids.filter((one) => one !== id).join(","))} />
          <SpecDifferences runs={found} names={names} />
        </>
      )}
    </div>
  );
}

function AddRun({ ids, onAdd }: { ids: readonly string[]; onAdd: (id: string) => void }) {
  const t = useText();
  const runs = useRuns({}, 100);
  const others = (runs.data?.pages.flatMap((page) => page.items) ?? []).filter((run) => !ids.includes(run.id));
  return (
    <select className="select narrow" aria-label={t("compare.add")} value="" onChange={(event) => event.target.value && onAdd(event.target.value)} disabled={ids.length >= MOST}>
      <option value="">{t("compare.add")}</option>
      {others.map((run) => (
        <option key={run.id} value={run.id}>
          {run.name ?? `${run.targets.join(", ")} ${shortId(run.id)}`} ({t(`state.${run.state}`)})
        </option>
      ))}
    </select>
  );
}

/** What a run is called beside others: its name, or else its id and the first settings in which it differs from them. */
function namesOf(runs: readonly RunDetail[]): ReadonlyMap<string, string> {
  const rows = differences(runs.map((run) => run.spec)).filter((row) => !/^\/(model|dataset)\b/.test(row.path) && row.values.every((value) => value === null || value.length < 14));
  return new Map(
    runs.map((run, index) => {
      const settings = rows.slice(0, 2).flatMap((row) => (row.values[index] ? [`${row.path.split("/").at(-1) ?? ""} ${row.values[index].replaceAll('"', "")}`] : []));
      return [run.id, run.name ?? [shortId(run.id), ...settings].join(" · ")];
    }),
  );
}

function Curves({ ids, names, tables, metric, log }: { ids: readonly string[]; names: ReadonlyMap<string, string>; tables: readonly (EpochTable | null)[]; metric: string; log: boolean }) {
  const t = useText();
  const { x, curves } = useMemo(() => {
    const length = Math.max(0, ...tables.map((table) => table?.lastEpoch ?? 0));
    return {
      x: Array.from({ length }, (_, index) => index + 1),
      curves: ids.flatMap((id, index): Curve[] => {
        const table = tables[index];
        if (!table) return [];
        const dash = index >= SERIES.length ? [6, 2 + 2 * Math.floor(index / SERIES.length)] : undefined;
        return [{ label: names.get(id) ?? shortId(id), values: table.series(table.bestTrial(metric), metric, length), color: SERIES[index % SERIES.length] ?? "--train", ...(dash && { dash }) }];
      }),
    };
  }, [ids, names, tables, metric]);
  if (x.length === 0) return <Empty title={t("curves.none")} />;
  return <CurveChart label={metric} x={x} curves={curves} log={log} height={380} xLabel={t("epoch")} />;
}

interface FiguresProps {
  runs: readonly RunDetail[];
  names: ReadonlyMap<string, string>;
  tables: readonly (EpochTable | null)[];
  ids: readonly string[];
  metric: string;
  /** Whether the figures of ended runs have the curves' unit. */
  kept: boolean;
  onRemove: (id: string) => void;
}

function Figures({ runs, names, tables, ids, metric, kept: inUnits, onRemove }: FiguresProps) {
  const t = useText();
  const mode = modeOf(plainMetric(metric));
  // Of an ended run, what the kept weights reach; of one that trains, the best so far.
  const trialsOf = (run: RunDetail): number[] => {
    const table = tables[ids.indexOf(run.id)];
    if (!table) {
      const figure = keptFigure(run, metric);
      return figure === null ? [] : [figure];
    }
    const kept = keptEpochs(run.result);
    return table.trialNumbers.flatMap((trial) => {
      const epoch = kept.get(trial);
      const values = table.series(trial, metric, table.lastEpoch);
      const at = epoch === undefined ? best(values, mode) : epoch - 1;
      const value = at === null ? null : values[at];
      return typeof value === "number" ? [value] : [];
    });
  };
  const first = runs[0];
  const base = first ? trialsOf(first) : [];
  return (
    <Card title={t("compare.figures", { metric: metricName(metric) })} bare>
      <Scroll>
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t("run")}</th>
              <th scope="col">{t("dataset")}</th>
              <th scope="col">{t("state")}</th>
              <th scope="col" className="num">{t("compare.best")}</th>
              <th scope="col" className="num">{t("compare.spread")}</th>
              <th scope="col">{t("compare.verdict")}</th>
              <th scope="col">
                <span className="visually-hidden">{t("actions")}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {runs.map((run, index) => {
              const values = trialsOf(run);
              // Of an ended run, what its kept weights reach: those of an average are none of its members'.
              const reached = (inUnits && !isLive(run) ? keptFigure(run, metric) : null) ?? (values.length === 0 ? null : mode === "min" ? Math.min(...values) : Math.max(...values));
              const comparison = index === 0 || run.dataset_id !== first?.dataset_id ? null : verdict(base, values, mode);
              return (
                <tr key={run.id}>
                  <td>
                    <i className="swatch" style={{ background: `var(${SERIES[ids.indexOf(run.id) % SERIES.length] ?? "--train"})` }} />
                    <Link to={`/runs/${encodeURIComponent(run.id)}`}>{names.get(run.id)}</Link>
                  </td>
                  <td className="muted">{about(run.resolved).dataset}</td>
                  <td>
                    <StateBadge state={run.state} />
                  </td>
                  <td className="num">{reached === null ? "–" : number(reached)}</td>
                  <td className="num">{values.length > 1 ? `${number(Math.min(...values), 3)} – ${number(Math.max(...values), 3)} (${values.length})` : "–"}</td>
                  <td>{index === 0 ? <span className="faint">{t("compare.base")}</span> : comparison ? t(`compare.${comparison}`) : <span className="faint">{run.dataset_id === first?.dataset_id ? t("compare.few") : t("compare.otherdata")}</span>}</td>
                  <td className="right nowrap">
                    <button type="button" className="linklike small" onClick={() => onRemove(run.id)}>
                      {t("remove")}
                    </button>
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

function SpecDifferences({ runs, names }: { runs: readonly RunDetail[]; names: ReadonlyMap<string, string> }) {
  const t = useText();
  const [asked, setWhole] = useInAddress("whole", "0");
  const whole = asked === "1";
  const rows = useMemo(() => differences(runs.map((run) => (whole ? run.resolved : run.spec))), [runs, whole]);
  if (runs.length < 2) return null;
  if (rows.length === 0 && whole) return <Notice tone="good">{t("compare.same")}</Notice>;
  return (
    <Card title={t("compare.differences")} bare actions={<Check label={t("spec.resolved")} checked={whole} onChange={(on) => setWhole(on ? "1" : "0")} />}>
      <Scroll>
        <table className="table dense">
          <thead>
            <tr>
              <th scope="col">{t("compare.where")}</th>
              {runs.map((run) => (
                <th scope="col" key={run.id} className="clip run-name" title={names.get(run.id)}>
                  {run.name ?? shortId(run.id)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.path}>
                <td className="mono small">{row.path}</td>
                {row.values.map((value, index) => (
                  <td key={index} className="mono small difference">
                    {value ?? <span className="faint">–</span>}
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
