import { Link } from "react-router";
import type { ListedRun } from "../../api/types";
import { ago, moment, number } from "../../format";
import { named, useText, type Key } from "../../i18n";
import { metricName } from "../../i18n/metrics";
import { useSentence } from "../../i18n/sentences";
import { headline, shortId, StateBadge } from "../RunBits";
import { took } from "../RunTable";

export type ColumnId = "name" | "state" | "dataset" | "targets" | "changes" | "metric" | "tags" | "notes" | "model" | "duration" | "created";

interface Column {
  id: ColumnId;
  title: Key;
  width: number; // in px, at least
  sort?: string;
  numeric?: boolean;
}

export const COLUMNS: readonly Column[] = [
  { id: "name", title: "run", width: 184, sort: "name" },
  { id: "metric", title: "runs.metric", width: 140, sort: "metric", numeric: true },
  { id: "state", title: "state", width: 114, sort: "state" },
  { id: "dataset", title: "dataset", width: 124, sort: "dataset" },
  { id: "targets", title: "runs.targets", width: 84 },
  { id: "changes", title: "runs.changes", width: 176 },
  { id: "tags", title: "runs.tags", width: 100 },
  { id: "notes", title: "runs.notes", width: 160 },
  { id: "model", title: "model", width: 120, sort: "model" },
  { id: "duration", title: "duration", width: 90, sort: "duration", numeric: true },
  { id: "created", title: "created", width: 126, sort: "created" },
];
export const USUAL: readonly ColumnId[] = ["name", "metric", "state", "dataset", "targets", "changes", "tags", "created"];
export const isColumn = (id: string): id is ColumnId => COLUMNS.some((one) => one.id === id);

interface CellProps {
  run: ListedRun;
  id: ColumnId;
  /** The metric shown; null for each run's headline. */
  metric: string | null;
  onTag: (tag: string) => void;
}

/** What one column says of a run, in one or two lines. */
export function Cell({ run, id, metric, onTag }: CellProps) {
  switch (id) {
    case "name":
      return <NameCell run={run} />;
    case "state":
      return <StateBadge state={run.state} cancelling={run.cancel_requested_at !== null} />;
    case "dataset":
      return <Link to={`/datasets/${encodeURIComponent(run.dataset)}`}>{run.dataset}</Link>;
    case "targets":
      return <span title={run.targets.join(", ")}>{run.targets.join(", ")}</span>;
    case "changes":
      return <ChangesCell run={run} />;
    case "metric":
      return <MetricCell run={run} metric={metric} />;
    case "tags":
      return <TagsCell run={run} onTag={onTag} />;
    case "notes":
      return <span title={run.notes ?? ""}>{run.notes}</span>;
    case "model":
      return run.model ? <Link to={`/models/${encodeURIComponent(run.model)}`}>{run.model}</Link> : <span className="faint">–</span>;
    case "duration":
      return <>{took(run)}</>;
    case "created":
      return <span title={moment(run.created_at)}>{ago(run.created_at)}</span>;
  }
}

function NameCell({ run }: { run: ListedRun }) {
  const notes = run.notes?.split("\n")[0] ?? "";
  return (
    <>
      <Link to={`/runs/${encodeURIComponent(run.id)}`} className={run.name ? "" : "mono"}>
        {run.name ?? shortId(run.id)}
      </Link>
      {(run.name || notes !== "") && (
        <div className="faint small clip" title={run.notes ?? run.id}>
          {run.name ? <span className="mono">{shortId(run.id)}</span> : null} {notes}
        </div>
      )}
    </>
  );
}

/** A JSON Pointer by its last words: `/network/0/Dense/units` as `Dense units`. */
export const shortPath = (path: string): string =>
  path
    .split("/")
    .filter((part) => part !== "" && !/^\d+$/.test(part))
    .slice(-2)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    .join(" ");

const shown = (value: unknown): string => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? number(value) : String(value));

function ChangesCell({ run }: { run: ListedRun }) {
  const t = useText();
  const { changes, compared_with: other } = run;
  if (!changes || !other) return <span className="faint">–</span>;
  if (changes.length === 0) return <span className="faint">{t("runs.changes.none")}</span>;
  const lines = changes.map((one) => ({ path: String(one.path), from: shown(one.from), to: shown(one.to) }));
  const whole = [t("runs.changes.of", { run: shortId(other) }), ...lines.map((one) => `${one.path}: ${one.from} → ${one.to}`)].join("\n");
  const [first] = lines;
  return (
    <div title={whole}>
      {first && (
        <div className="clip">
          <span className="muted">{shortPath(first.path)}</span> {first.from} → <strong>{first.to}</strong>
        </div>
      )}
      {lines.length > 1 && <div className="faint small clip">{t("runs.changes.more", { n: lines.length - 1 })}: {lines.slice(1).map((one) => shortPath(one.path)).join(", ")}</div>}
    </div>
  );
}

function MetricCell({ run, metric }: { run: ListedRun; metric: string | null }) {
  const t = useText();
  const say = useSentence();
  if (run.error) {
    const detail = say(String(run.error.detail ?? ""));
    return (
      <span className="wrong small clip" title={detail}>
        {run.error.cause ? named("failure", String(run.error.cause), t) : detail}
      </span>
    );
  }
  const name = metric ?? headline(run.scores);
  const value = name === null ? undefined : run.scores[name];
  if (name === null || value === undefined) return <span className="faint">–</span>;
  return (
    <>
      {number(value)}
      {metric === null && <div className="faint small clip">{metricName(name)}</div>}
    </>
  );
}

function TagsCell({ run, onTag }: { run: ListedRun; onTag: (tag: string) => void }) {
  const [first, ...others] = run.tags ?? [];
  return (
    <div className="tags">
      {first !== undefined && (
        <button type="button" className="tag clip" title={first} onClick={() => onTag(first)}>
          {first}
        </button>
      )}
      {others.length > 0 && (
        <span className="faint small nowrap" title={others.join(", ")}>
          +{others.length}
        </span>
      )}
    </div>
  );
}
