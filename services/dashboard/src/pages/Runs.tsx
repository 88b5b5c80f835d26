import { useState } from "react";
import { Link, useNavigate, useSearchParams } from "react-router";
import { useRuns } from "../api/runs";
import type { RunSummary } from "../api/types";
import { Button, Card, Check, Empty, ErrorView, Loading, Scroll, Segment } from "../components/basics";
import { StateBadge } from "../components/RunBits";
import { ago, number, seconds } from "../format";
import { useText, type Key } from "../i18n";

const STATES = ["", "queued", "running", "succeeded", "failed", "cancelled"] as const;

export default function Runs() {
  const t = useText();
  const go = useNavigate();
  const [query, setQuery] = useSearchParams();
  const state = query.get("state") ?? "";
  const model = query.get("model") ?? "";
  const playground = query.get("playground") === "true";
  const others = { ...(model && { model }), ...(playground && { playground: "true" }) };
  const runs = useRuns({ ...others, ...(state && { state }) }, 100);
  const [chosen, setChosen] = useState<readonly string[]>([]);
  const items = runs.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>{t("nav.runs")}</h1>
          {model && <p className="muted">{t("runs.of", { model })}</p>}
        </div>
        <div className="row">
          <Segment
            label={t("state")}
            value={state}
            choices={STATES.map((value) => ({ value: value as string, label: value === "" ? t("all") : t(`state.${value}` as Key) }))}
            onChange={(next) => setQuery({ ...others, ...(next && { state: next }) }, { replace: true })}
          />
          <Check label={t("playground.show")} checked={playground} onChange={(on) => setQuery({ ...(model && { model }), ...(on && { playground: "true" }), ...(state && { state }) }, { replace: true })} />
          <Button disabled={chosen.length < 2} onPress={() => void go(`/compare?runs=${chosen.join(",")}`)}>
            {t("compare.n", { n: chosen.length })}
          </Button>
          <Link className="button primary" to="/new">
            {t("nav.new")}
          </Link>
        </div>
      </div>
      {runs.error && <ErrorView error={runs.error} />}
      <Card bare>
        {runs.isPending && (
          <div className="body">
            <Loading />
          </div>
        )}
        {runs.data && items.length === 0 && (
          <Empty title={t("runs.none")}>
            <Link className="button primary" to="/new">
              {t("nav.new")}
            </Link>
          </Empty>
        )}
        {items.length > 0 && (
          <RunTable
            runs={items}
            chosen={chosen}
            onChoose={(id, on) => setChosen((old) => (on ? [...old, id] : old.filter((one) => one !== id)))}
          />
        )}
        {runs.hasNextPage && (
          <div className="body">
            <Button onPress={() => void runs.fetchNextPage()}>{t("more")}</Button>
          </div>
        )}
      </Card>
    </div>
  );
}

interface TableProps {
  runs: readonly RunSummary[];
  chosen?: readonly string[];
  onChoose?: (id: string, on: boolean) => void;
}

export function RunTable({ runs, chosen = [], onChoose }: TableProps) {
  const t = useText();
  return (
    <Scroll>
      <table className="table">
        <thead>
          <tr>
            {onChoose && (
              <th scope="col">
                <span className="visually-hidden">{t("compare")}</span>
              </th>
            )}
            <th scope="col">{t("run")}</th>
            <th scope="col">{t("state")}</th>
            <th scope="col">{t("model")}</th>
            <th scope="col">{t("result")}</th>
            <th scope="col" className="num">{t("duration")}</th>
            <th scope="col">{t("created")}</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <tr key={run.id}>
              {onChoose && (
                <td>
                  <input
                    type="checkbox"
                    aria-label={t("compare.choose", { run: run.id })}
                    checked={chosen.includes(run.id)}
                    onChange={(event) => onChoose(run.id, event.target.checked)}
                  />
                </td>
              )}
              <td>
                <Link to={`/runs/${encodeURIComponent(run.id)}`} className="mono nowrap">
                  {shortId(run.id)}
                </Link>
              </td>
              <td>
                <StateBadge state={run.state} cancelling={run.cancel_requested_at !== null} />
              </td>
              <td>{run.model ? <Link to={`/models/${encodeURIComponent(run.model)}`}>{run.model}</Link> : <span className="faint">–</span>}</td>
              <td className="small">{resultLine(run)}</td>
              <td className="num nowrap">{took(run)}</td>
              <td className="muted nowrap">{ago(run.created_at)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

export const shortId = (id: string): string => (id.length > 14 ? `…${id.slice(-8)}` : id);

/** The final figures in one line: those of the test part if it has any. */
export function resultLine(run: RunSummary): string {
  if (run.error) return String(run.error.detail ?? run.error.cause ?? "");
  const metrics = (run.result?.metrics ?? {}) as Record<string, unknown>;
  const part = metrics.test ?? metrics.validation ?? metrics;
  if (part === null || typeof part !== "object") return "";
  return Object.entries(part as Record<string, unknown>)
    .filter(([, value]) => typeof value === "number")
    .slice(0, 3)
    .map(([name, value]) => `${name} ${number(value as number)}`)
    .join(" · ");
}

function took(run: RunSummary): string {
  if (!run.started_at) return "–";
  const end = run.finished_at ? Date.parse(run.finished_at) : Date.now();
  return seconds((end - Date.parse(run.started_at)) / 1000);
}
