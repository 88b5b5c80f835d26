import { useQueryClient } from "@tanstack/react-query";
import { Link } from "react-router";
import type { Me } from "../api/session";
import { useSystem, useSystemHistory } from "../api/system";
import type { SystemInfo } from "../api/types";
import { Card, ErrorView, Loading, Stat } from "../components/basics";
import { AddressTabs } from "../components/dialogs";
import { AlarmList } from "../components/system/AlarmList";
import { AuditLog } from "../components/system/AuditLog";
import { HistoryCharts } from "../components/system/HistoryCharts";
import { Keys } from "../components/system/Keys";
import { LimitList } from "../components/system/Limits";
import { StatusBanner } from "../components/system/StatusBanner";
import { StorageByKind, StorageByOwner } from "../components/system/Storage";
import { Workers } from "../components/system/Workers";
import { bytes, number, seconds } from "../format";
import { useText } from "../i18n";

/** An operator's wall; whoever is none sees their own keys and storage, and the limits. */
export default function System() {
  const t = useText();
  const me = useQueryClient().getQueryData<Me>(["session"]);
  const admin = me?.scopes.includes("admin") ?? false;
  const system = useSystem(admin);
  const keys = me && (admin || me.scopes.includes("keys")) ? <Keys me={me} /> : null;
  return (
    <div className="page">
      <div>
        <h1>{t("nav.system")}</h1>
        <p className="muted">{t("system.lead")}</p>
      </div>
      {admin && system.isPending && <Loading />}
      {system.error && <ErrorView error={system.error} />}
      {system.data && <StatusBanner system={system.data} />}
      {admin ? (
        <AddressTabs
          label={t("nav.system")}
          tabs={[
            { id: "now", title: t("system.tab.now"), content: () => (system.data ? <Wall system={system.data} /> : null) },
            { id: "alarms", title: t("system.alarms"), content: () => <AlarmList /> },
            { id: "audit", title: t("system.audit"), content: () => <AuditLog /> },
            {
              id: "storage",
              title: t("system.storage"),
              content: () => (
                <div className="stack">
                  <StorageByOwner />
                  {system.data && <StorageByKind system={system.data} />}
                </div>
              ),
            },
            {
              id: "keys",
              title: t("system.tab.keys"),
              content: () => (
                <div className="stack">
                  {keys}
                  <Rest {...(system.data && { system: system.data })} />
                </div>
              ),
            },
          ]}
        />
      ) : (
        <>
          {keys}
          {me?.scopes.includes("read") && <StorageByOwner />}
          <Rest />
        </>
      )}
    </div>
  );
}

function Wall({ system }: { system: SystemInfo }) {
  const t = useText();
  const total = system.storage.reduce((sum, one) => sum + one.bytes, 0);
  return (
    <div className="stack">
      <div className="card">
        <div className="body stats spread capital">
          <Stat name={t("system.workers")} value={number(system.workers.filter((worker) => worker.alive).length)} />
          <Stat name={t("state.running")} value={number(system.runs.running ?? 0)} />
          <Stat name={t("state.queued")} value={number(system.runs.queued ?? 0)} note={system.oldest_queued_seconds ? t("system.oldest", { time: seconds(system.oldest_queued_seconds) }) : undefined} />
          <LastHour />
          <Stat name={t("system.storage")} value={bytes(total)} />
          <Stat name={t("version")} value={system.version} />
        </div>
        <p className="body small muted totals">
          {t("system.ended.runs")}{" "}
          {(["succeeded", "failed", "cancelled"] as const).map((state) => (
            <Link key={state} to={`/runs?state=${state}`}>
              {number(system.runs[state] ?? 0)} {t(`state.${state}`)}
            </Link>
          ))}
        </p>
      </div>
      <HistoryCharts />
      <Workers system={system} />
    </div>
  );
}

/** What was asked of the models within the last hour, and how it went. */
function LastHour() {
  const t = useText();
  const { data } = useSystemHistory("hour");
  if (!data) return null;
  const sum = (name: "predictions" | "predict_errors") => data.points.reduce((all, point) => all + (point[name] ?? 0), 0);
  const slowest = Math.max(0, ...data.points.map((point) => point.p99 ?? 0));
  const predictions = Math.round(sum("predictions") * data.step);
  return (
    <>
      <Stat name={t("system.predictions")} value={number(predictions)} note={t("system.hour")} />
      <Stat name={t("system.errors")} value={number(sum("predict_errors"))} note={t("system.hour")} />
      {predictions > 0 && <Stat name={t("traffic.p99")} value={seconds(slowest)} note={t("system.slowest")} />}
    </>
  );
}

function Rest({ system }: { system?: SystemInfo }) {
  const t = useText();
  return (
    <div className="grid two top">
      <LimitList />
      <Card title={t("system.more")}>
        <ul className="prose">
          <li>
            <a href="/docs">{t("system.docs")}</a>
          </li>
          <li>
            <a href="/metrics">{t("system.metrics")}</a>
          </li>
          <li>
            {system?.grafana_url ? (
              <a href={system.grafana_url} rel="noreferrer">
                {t("system.grafana")}
              </a>
            ) : (
              <span className="muted">
                {t("system.grafana.none")} <code>FITSERVE_GRAFANA_URL</code>
              </span>
            )}
          </li>
        </ul>
      </Card>
    </div>
  );
}
