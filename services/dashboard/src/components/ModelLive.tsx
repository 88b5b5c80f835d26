import { useDrift } from "../api/feedback";
import type { Drifted } from "../api/types";
import { Bars } from "../charts/small";
import { number, percent, seconds } from "../format";
import { useText, type Key, type Translate } from "../i18n";
import { Badge, Card, Empty, ErrorView, Loading, Scroll, type Tone } from "./basics";
import { LiveTruth } from "./feedback/LiveTruth";
import { ModelHistory } from "./ModelHistory";
import { ModelTraffic } from "./ModelTraffic";

const TONES: Record<string, Tone> = { stable: "good", moved: "warn", drifted: "bad" };
const BINS: Record<string, Key> = { below: "drift.bin.below", above: "drift.bin.above", other: "drift.bin.other", missing: "missing" };
const KEYS: Record<string, Key> = { stable: "drift.stable", moved: "drift.moved", drifted: "drift.drifted", "too few rows": "drift.few" };

/** Live requests: rate, latency, drift from the training rows, and accuracy against reported outcomes. */
export function ModelLive({ name }: { name: string }) {
  return (
    <div className="stack">
      <ModelHistory name={name} />
      <ModelTraffic name={name} />
      <Drift name={name} />
    </div>
  );
}

function Drift({ name }: { name: string }) {
  const t = useText();
  const drift = useDrift(name);
  if (drift.isPending) return <Loading />;
  if (drift.error) return <ErrorView error={drift.error} />;
  const report = drift.data;
  if (report === null || report.rows === 0) {
    return (
      <>
        <Card title={t("drift.title")}>
          <Empty title={t("drift.none")} />
        </Card>
        {report !== null && <LiveTruth name={name} report={report} />}
      </>
    );
  }
  return (
    <>
      <Card title={t("drift.title")} actions={<VerdictBadge verdict={report.verdict} />}>
        <div className="stack tight">
          <p className="small muted">{t("drift.lead", { rows: number(report.rows), window: windowText(report.window_seconds, t) })}</p>
          <Indices label={t("drift.title")} items={report.columns.map((one) => ({ ...one, name: one.column }))} />
        </div>
      </Card>
      {report.outputs.length > 0 && (
        <Card title={t("drift.outputs")}>
          <Indices label={t("drift.outputs")} items={report.outputs.map((one) => ({ ...one, name: `${one.output} · ${t(`drift.part.${one.part}` as Key)}` }))} />
        </Card>
      )}
      <LiveTruth name={name} report={report} />
    </>
  );
}

const windowText = (length: number, t: Translate): string => (length === 3600 ? t("window.hour") : t("window.time", { time: seconds(length) }));

function VerdictBadge({ verdict }: { verdict: string }) {
  const t = useText();
  const key = KEYS[verdict];
  return <Badge tone={TONES[verdict] ?? "plain"}>{key ? t(key) : verdict}</Badge>;
}

/** Each distribution's stability index as a bar, with its bins beside those of training in a table. */
function Indices({ label, items }: { label: string; items: readonly (Drifted & { name: string })[] }) {
  const t = useText();
  const largest = Math.max(0.5, ...items.map((one) => one.psi ?? 0));
  return (
    <div className="stack tight">
      <Bars
        label={label}
        max={largest}
        bars={items.map((one) => ({
          label: one.name,
          value: one.psi ?? 0,
          text: `${one.psi === null ? t("drift.few") : number(one.psi, 3)}${one.missing ? ` · ${t("missing")} ${percent(one.missing)}` : ""}`,
          color: `var(--${TONES[one.verdict] ?? "line-2"})`,
        }))}
      />
      <details>
        <summary className="small">{t("drift.bins")}</summary>
        {items.slice(0, 20).map((one) => (
          <Scroll key={one.name} label={one.name}>
            <table className="table dense">
              <caption className="small">{one.name}</caption>
              <thead>
                <tr>
                  <th scope="col">{t("range")}</th>
                  <th scope="col" className="num">{t("training")}</th>
                  <th scope="col" className="num">{t("drift.requests")}</th>
                </tr>
              </thead>
              <tbody>
                {one.bins.map((bin) => (
                  <tr key={bin.bin}>
                    <td className="cell">{BINS[bin.bin] ? t(BINS[bin.bin] as Key) : bin.bin}</td>
                    <td className="num">{percent(bin.training)}</td>
                    <td className="num">{percent(bin.asked)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        ))}
      </details>
    </div>
  );
}
