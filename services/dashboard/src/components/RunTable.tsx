import { Link } from "react-router";
import type { ListedRun } from "../api/types";
import { ago, number, seconds } from "../format";
import { named, useText } from "../i18n";
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
  return (
    <Scroll>
      <table className="table">
        <thead>
          <tr>
            <th scope="col">{t("run")}</th>
            <th scope="col">{t("state")}</th>
            <th scope="col" className="wide-only-column">{t("model")}</th>
            <th scope="col">{t("result")}</th>
            <th scope="col" className="wide-only-column">{t("created")}</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <tr key={run.id}>
              <td>
                <Link to={`/runs/${encodeURIComponent(run.id)}`} className="clip short" title={run.name ?? undefined}>
                  {run.name ?? (run.targets.join(", ") || shortId(run.id))}
                </Link>
                <div className="faint small mono nowrap">{shortId(run.id)}</div>
              </td>
              <td>
                <StateBadge state={run.state} cancelling={run.cancel_requested_at !== null} />
              </td>
              <td className="wide-only-column">{run.model ? <Link className="clip short" to={`/models/${encodeURIComponent(run.model)}`} title={run.model}>{run.model}</Link> : <span className="faint">–</span>}</td>
              <td className="small">
                <Result run={run} />
              </td>
              <td className="muted nowrap wide-only-column">{ago(run.created_at)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

/** The score that says most, or why it failed; the pointer on it shows all. */
function Result({ run }: { run: ListedRun }) {
  const t = useText();
  const say = useSentence();
  if (run.error) {
    const detail = say(String(run.error.detail ?? ""));
    return (
      <span className="wrong clip short" title={detail}>
        {run.error.cause ? named("failure", String(run.error.cause), t) : detail}
      </span>
    );
  }
  const score = (name: string) => `${metricName(name)} ${number(run.scores[name])}`;
  const first = headline(run.scores);
  return first === null ? null : (
    <span className="nowrap" title={Object.keys(run.scores).map(score).join(" · ")}>
      {score(first)}
    </span>
  );
}

export function took(run: ListedRun): string {
  if (!run.started_at) return "–";
  const end = run.finished_at ? Date.parse(run.finished_at) : Date.now();
  return seconds((end - Date.parse(run.started_at)) / 1000);
}
