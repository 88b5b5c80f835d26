import { useState } from "react";
import { useNavigate } from "react-router";
import { post, seg } from "../api/client";
import { isLive, useInsight } from "../api/runs";
import type { RunDetail } from "../api/types";
import { number } from "../format";
import { useText } from "../i18n";
import { Badge, Button, Card, Empty, ErrorView, Loading, Notice, type Tone } from "./basics";
import { tell, tellError } from "./toasts";

interface Operation {
  op: string;
  path: string;
  value?: unknown;
}

interface Finding {
  n?: number;
  rule: string;
  severity: "critical" | "warning" | "info";
  title: string;
  sentence: string;
  threshold: string;
  source: string;
  answer: string;
  epochs: number[];
  values: Record<string, unknown>;
  patch: Operation[];
}

interface Findings {
  items?: Finding[];
  findings?: Finding[];
}

interface Complexity {
  verdict: string;
  sentence: string;
  turned_epoch: number | null;
  kept_epoch: number;
}

const TONES: Record<Finding["severity"], Tone> = { critical: "bad", warning: "warn", info: "info" };

/** What went wrong or could go better, each with its evidence and the change that answers it. */
export function RunFindings({ run }: { run: RunDetail }) {
  const t = useText();
  const ended = !isLive(run);
  const findings = useInsight<Findings | Finding[]>(run.id, "findings", true);
  const complexity = useInsight<Complexity>(run.id, "complexity", ended);
  if (findings.isPending) return <Loading />;
  if (findings.error) return <ErrorView error={findings.error} />;
  const items = Array.isArray(findings.data) ? findings.data : (findings.data?.items ?? findings.data?.findings ?? []);
  const verdict = complexity.data;
  return (
    <div className="stack">
      {verdict?.sentence && (
        <Notice tone={verdict.verdict === "just right" ? "good" : verdict.verdict === "unknown" ? "info" : "warn"}>
          <strong>{verdict.verdict}</strong>: {verdict.sentence} <span className="muted">{t("findings.kept", { epoch: verdict.kept_epoch })}</span>
        </Notice>
      )}
      {items.length === 0 && <Empty title={ended ? t("findings.none") : t("findings.later")} />}
      {items.map((finding, index) => (
        <FindingCard key={`${finding.rule}-${index}`} run={run} finding={finding} n={finding.n ?? index} />
      ))}
    </div>
  );
}

function FindingCard({ run, finding, n }: { run: RunDetail; finding: Finding; n: number }) {
  const t = useText();
  const go = useNavigate();
  const [busy, setBusy] = useState(false);
  const apply = () => {
    setBusy(true);
    post<RunDetail>(`/api/v1/runs/${seg(run.id)}/findings/${n}/apply`, undefined, { headers: { "Idempotency-Key": crypto.randomUUID() } })
      .then((child) => {
        tell(t("findings.applied"));
        return go(`/runs/${encodeURIComponent(child.id)}`);
      })
      .catch(tellError)
      .finally(() => setBusy(false));
  };
  const values = Object.entries(finding.values);
  return (
    <Card
      title={
        <span className="row tight">
          <Badge tone={TONES[finding.severity]}>{finding.severity}</Badge> {finding.title}
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
        <p>{finding.sentence}</p>
        {finding.answer && finding.patch.length > 0 && <p className="muted">→ {finding.answer}</p>}
        {finding.patch.length > 0 && (
          <details>
            <summary className="small">{t("findings.patch")}</summary>
            <ul className="patch mono small">
              {finding.patch.map((operation, index) => (
                <li key={index}>
                  <strong>{operation.op}</strong> {operation.path} {operation.value === undefined ? "" : JSON.stringify(operation.value)}
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
            <dd>{finding.threshold}</dd>
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
