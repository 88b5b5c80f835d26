import { useState } from "react";
import { Link, useNavigate } from "react-router";
import { post, seg } from "../api/client";
import { newId } from "../api/newId";
import { isLive, useInsight } from "../api/runs";
import type { Complexity, FindingInfo, Findings, Lineage, RunDetail } from "../api/types";
import { number } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { PredictedBy } from "./PredictedBy";
import { Badge, Button, Card, Empty, ErrorView, Loading, Notice, Scroll, type Tone } from "./basics";
import { showMessage, showError } from "./toasts";
import { switchesText } from "../spec/fork";

const TONES: Record<FindingInfo["severity"], Tone> = { critical: "bad", warning: "warn", info: "info" };

/** What went wrong or could be better, each with its evidence and the change to the spec that addresses it. */
export function RunFindings({ run }: { run: RunDetail }) {
  const t = useText();
  const say = useSentence();
  const ended = !isLive(run);
  const findings = useInsight<Findings>(run.id, "findings", true);
  const complexity = useInsight<Complexity>(run.id, "complexity", ended);
  if (findings.isPending) return <Loading />;
  if (findings.error) return <ErrorView error={findings.error} />;
  const items = findings.data?.items ?? [];
  const verdict = complexity.data;
  return (
    <div className="stack">
      {verdict?.sentence && (
        <Notice tone={verdict.verdict === "just right" ? "good" : verdict.verdict === "unknown" ? "info" : "warn"}>
          <strong>{t(`fit.${verdict.verdict}`)}</strong>: {say(verdict.sentence)} <span className="muted">{t("findings.epoch", { epoch: verdict.kept_epoch })}</span>
        </Notice>
      )}
      {items.length === 0 && <Empty title={ended ? t("findings.none") : t("findings.waiting")} />}
      {items.map((finding) => (
        <FindingCard key={finding.n} run={run} finding={finding} />
      ))}
      <LineageView run={run} />
    </div>
  );
}

function FindingCard({ run, finding }: { run: RunDetail; finding: FindingInfo }) {
  const t = useText();
  const say = useSentence();
  const go = useNavigate();
  const [busy, setBusy] = useState(false);
  const apply = () => {
    setBusy(true);
    post<RunDetail>(`/api/v1/runs/${seg(run.id)}/findings/${finding.n}/apply`, undefined, { headers: { "Idempotency-Key": newId() } })
      .then((child) => {
        showMessage(t("findings.applied"));
        return go(`/runs/${encodeURIComponent(child.id)}`);
      })
      .catch(showError)
      .finally(() => setBusy(false));
  };
  const values = Object.entries(finding.values);
  return (
    <Card
      title={
        <span className="row tight">
          <Badge tone={TONES[finding.severity]}>{t(`severity.${finding.severity}`)}</Badge> {say(finding.title)}
        </span>
      }
      actions={
        finding.patch.length > 0 && !isLive(run) ? (
          <Button tone="primary" small disabled={busy} onPress={apply}>
            {t("findings.apply")}
          </Button>
        ) : undefined
      }
    >
      <div className="stack tight">
        <p>{say(finding.sentence)}</p>
        {finding.answer && finding.patch.length > 0 && <p className="muted">→ {say(finding.answer)}</p>}
        {finding.patch.length > 0 && (
          <details>
            <summary className="small">{t("findings.patch")}</summary>
            <ul className="patch mono small">
              {finding.patch.map((operation, index) => (
                <li key={index}>
                  <strong>{String(operation.op)}</strong> {String(operation.path)} {operation.value === undefined ? "" : JSON.stringify(operation.value)}
                </li>
              ))}
            </ul>
          </details>
        )}
        <details>
          <summary className="small">{t("evidence")}</summary>
          <dl className="facts">
            {finding.epochs.length > 0 && (
              <>
                <dt>{t("epochs")}</dt>
                <dd className="num">{spans(finding.epochs)}</dd>
              </>
            )}
            {values.map(([name, value]) => (
              <div key={name} className="contents">
                <dt>{name.replaceAll("_", " ")}</dt>
                <dd className="num">{typeof value === "number" ? number(value) : JSON.stringify(value)}</dd>
              </div>
            ))}
            <dt>{t("findings.rule")}</dt>
            <dd>{say(finding.threshold)}</dd>
            <dt>{t("findings.source")}</dt>
            <dd>{finding.source}</dd>
          </dl>
        </details>
      </div>
    </Card>
  );
}

/** 1, 2, 3, 7 as `1–3, 7`. */
function spans(epochs: readonly number[]): string {
  const parts: [number, number][] = [];
  for (const epoch of [...epochs].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && epoch === last[1] + 1) last[1] = epoch;
    else parts.push([epoch, epoch]);
  }
  return parts.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}

const valueText = (path: unknown, value: unknown): string =>
  path === "/training/switches" && Array.isArray(value) && value.length > 0 ? switchesText(value as Parameters<typeof switchesText>[0]) : brief(value);

const VERDICTS: Record<string, Tone> = { better: "good", worse: "bad" };

/** Whose predictions the run's data are; and the run and its relatives: which changes helped by more than seed-to-seed noise. */
function LineageView({ run }: { run: RunDetail }) {
  const t = useText();
  const lineage = useInsight<Lineage>(run.id, "lineage", !isLive(run));
  const groups = lineage.data?.groups ?? [];
  const predicted = (lineage.data?.data ?? []).filter((one) => one.made === "predicted");
  return (
    <>
      {predicted.length > 0 && (
        <Card title={t("lineage.data")}>
          <div className="stack tight">
            {predicted.map((one) => (
              <PredictedBy key={one.dataset_id} dataset={one.dataset} model={one.model ?? ""} version={one.version ?? 0} of={sourceOf(lineage.data?.data ?? [], one)} trainedBy={one.trained_by} />
            ))}
          </div>
        </Card>
      )}
      {groups.length > 1 && <ChangesThatHelped groups={groups} />}
    </>
  );
}

/** The dataset that predictions were made on, where the chain goes on. */
const sourceOf = (chain: Lineage["data"], one: Lineage["data"][number]) => chain[chain.indexOf(one) + 1]?.dataset;

function ChangesThatHelped({ groups }: { groups: Lineage["groups"] }) {
  const t = useText();
  const say = useSentence();
  return (
    <Card title={t("lineage.title")} bare>
      <Scroll>
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t("run")}</th>
              <th scope="col">{t("lineage.change")}</th>
              <th scope="col" className="num">{t("lineage.mean")}</th>
              <th scope="col">{t("compare.verdict")}</th>
            </tr>
          </thead>
          <tbody>
            {groups.map((group) => (
              <tr key={group.group}>
                <td>
                  {group.runs.slice(0, 4).map((id) => (
                    <Link key={id} className="mono nowrap" to={`/runs/${encodeURIComponent(id)}`}>
                      …{id.slice(-8)}{" "}
                    </Link>
                  ))}
                </td>
                <td className="mono small break change">
                  {group.changes.slice(0, 6).map((change, index) => (
                    <div key={index}>
                      {String(change.path)}: {valueText(change.path, change.from)} → {valueText(change.path, change.to)}
                    </div>
                  ))}
                </td>
                <td className="num nowrap">
                  {number(group.mean)} <span className="faint">({group.seeds})</span>
                </td>
                <td>
                  {group.verdict && <Badge tone={VERDICTS[group.verdict] ?? "plain"}>{t(`verdict.run.${group.verdict}`)}</Badge>}
                  {group.sentence && <div className="small muted">{say(group.sentence)}</div>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

/** A changed value in one line. */
const brief = (value: unknown): string => {
  const text = JSON.stringify(value) ?? "–";
  return text.length > 90 ? `${text.slice(0, 90)}…` : text;
};
