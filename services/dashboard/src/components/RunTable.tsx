import { Link } from "react-router";
import type { ListedRun } from "../api/types";
import { ago, number, seconds } from "../format";
import { useText } from "../i18n";
import { metricName } from "../i18n/metrics";
import { useSentence } from "../i18n/sentences";
import { Scroll } from "./basics";
import { headline, shortId, StateBadge } from "./RunBits";

interface TableProps {
  runs: readonly ListedRun[];
}

/** A few runs, without filters. */
export function RunTable({ runs }: TableProps) {
  const t = useText();
  const say = useSentence();
  return (
    <Scroll>
      <table className="table">
        <thead>
          <tr>
            <th scope="col">{t("run")}</th>
            <th scope="col">{t("state")}</th>
            <th scope="col" className="wide-only-column">{t("model")}</th>
            <th scope="col">{t("result")}</th>
            <th scope="col" className="num wide-only-column">{t("duration")}</th>
            <th scope="col" className="wide-only-column">{t("created")}</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <tr key={run.id}>
              <td>
                <Link to={`/runs/${encodeURIComponent(run.id)}`} className="clip">
                  {run.name ?? (run.targets.join(", ") || shortId(run.id))}
                </Link>
                <div className="faint small mono nowrap">{shortId(run.id)}</div>
              </td>
              <td>
                <StateBadge state={run.state} cancelling={run.cancel_requested_at !== null} />
              </td>
              <td className="wide-only-column">{run.model ? <Link to={`/models/${encodeURIComponent(run.model)}`}>{run.model}</Link> : <span className="faint">–</span>}</td>
              <td className="small">{run.error ? <span className="wrong">{say(String(run.error.detail ?? run.error.cause ?? ""))}</span> : resultLine(run)}</td>
              <td className="num wide-only-column">{took(run)}</td>
              <td className="muted nowrap wide-only-column">{ago(run.created_at)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

/** The scores in one line, the one that says most first; or why it failed. */
export function resultLine(run: ListedRun): string {
  if (run.error) return String(run.error.detail ?? run.error.cause ?? "");
  const first = headline(run.scores);
  const rest = Object.keys(run.scores).filter((name) => name !== first);
  return [...(first === null ? [] : [first]), ...rest]
    .slice(0, 3)
    .map((name) => `${metricName(name)} ${number(run.scores[name])}`)
    .join(" · ");
}

export function took(run: ListedRun): string {
  if (!run.started_at) return "–";
  const end = run.finished_at ? Date.parse(run.finished_at) : Date.now();
  return seconds((end - Date.parse(run.started_at)) / 1000);
}
