import { useMemo } from "react";
import { useModelHistory } from "../api/models";
import type { Window } from "../api/system";
import type { ModelHistory as History } from "../api/types";
import { TimeChart } from "../charts/TimeChart";
import { ago, moment, number, percent, seconds } from "../format";
import { useText, type Translate } from "../i18n";
import { useInAddress } from "../state/address";
import { Badge, Card, ErrorView, Loading, Notice, Scroll, Stat } from "./basics";
import { time, WindowChoice } from "./system/HistoryCharts";

/** A model's last hour or day: what was asked, what failed, how long it took, how its inputs have moved. */
export function ModelHistory({ name }: { name: string }) {
  const t = useText();
  const [chosen, setWindow] = useInAddress("window", "hour");
  const window: Window = chosen === "day" ? "day" : "hour";
  const history = useModelHistory(name, window);
  return (
    <Card title={t("model.history")} actions={<WindowChoice value={window} onChange={setWindow} />}>
      {history.isPending && <Loading />}
      {history.error && <ErrorView error={history.error} />}
      {history.data && <Shown history={history.data} />}
    </Card>
  );
}

function Shown({ history }: { history: History }) {
  const t = useText();
  const times = useMemo(() => history.points.map((point) => Date.parse(point.at) / 1000), [history]);
  const charts = useMemo(() => chartsOf(history, t), [history, t]);
  return (
    <div className="stack">
      <div className="stats">
        <Stat name={t("model.requests")} value={number(history.requests)} note={t("rows.count", { n: number(history.rows) })} />
        <Stat name={t("system.errors")} value={number(history.errors)} note={history.requests > 0 ? percent(history.errors / history.requests, 2) : undefined} />
        <Stat name={t("system.refused")} value={number(history.refused)} note={history.requests > 0 ? percent(history.refused / history.requests, 2) : undefined} />
        <Stat name={t("traffic.p50")} value={seconds(history.p50)} />
        <Stat name={t("traffic.p99")} value={seconds(history.p99)} />
      </div>
      {history.drifting_since && <Notice tone="warn">{t("model.drifting", { time: moment(history.drifting_since) })}</Notice>}
      <LastFault history={history} />
      <div className="time-charts">
        {charts.map((chart) => (
          <TimeChart key={chart.label} {...chart} times={times} sync="model" />
        ))}
      </div>
      {history.versions.length > 1 && <Versions history={history} />}
    </div>
  );
}

function chartsOf({ points, step }: History, t: Translate) {
  const count = (value: number) => number(value, 3);
  return [
    { label: t("model.requests"), unit: t("system.per.second"), format: count, lines: [{ label: t("model.requests"), values: points.map((point) => point.requests), color: "--train" }] },
    {
      label: t("system.errors"),
      unit: t("system.per.slot", { time: seconds(step) }),
      format: count,
      lines: [
        { label: t("system.errors"), values: points.map((point) => point.errors), color: "--fifth" },
        { label: t("system.refused"), values: points.map((point) => point.refused), color: "--third" },
      ],
    },
    {
      label: t("system.latency"),
      unit: t("system.unit.time"),
      format: time,
      lines: [
        { label: t("traffic.p50"), values: points.map((point) => point.p50), color: "--train" },
        { label: t("traffic.p99"), values: points.map((point) => point.p99), color: "--valid" },
      ],
    },
    { label: t("model.drift"), unit: "PSI", format: count, lines: [{ label: t("model.drift.worst"), values: points.map((point) => point.psi), color: "--fourth" }] },
  ];
}

/** The last request that failed or was refused, or the last load that failed, of any time. */
function LastFault({ history: { fault } }: { history: History }) {
  const t = useText();
  if (fault === null) return <p className="small muted">{t("model.fault.none")}</p>;
  return (
    <p className="small">
      <strong>{t("model.fault")}</strong> <span title={moment(fault.at)}>{ago(fault.at)}</span>: {fault.status && <Badge tone={/^[45]/.test(fault.status) && fault.status < "500" ? "warn" : "bad"}>{fault.status}</Badge>}{" "}
      {fault.operation === "load" ? t("model.fault.load") : <code>:{fault.operation}</code>} {fault.version !== null && `v${fault.version}`} <span className="break">{fault.detail}</span>
    </p>
  );
}

function Versions({ history }: { history: History }) {
  const t = useText();
  return (
    <Scroll label={t("models.tab.versions")}>
      <table className="table dense">
        <thead>
          <tr>
            <th scope="col" className="num">{t("version")}</th>
            <th scope="col" className="num">{t("model.requests")}</th>
            <th scope="col" className="num">{t("system.errors")}</th>
            <th scope="col" className="num">{t("system.refused")}</th>
            <th scope="col" className="num">{t("traffic.p50")}</th>
            <th scope="col" className="num">{t("traffic.p99")}</th>
          </tr>
        </thead>
        <tbody>
          {history.versions.map((one) => (
            <tr key={one.version}>
              <td className="num">{one.version === 0 ? t("model.no.version") : one.version}</td>
              <td className="num">{number(one.requests)}</td>
              <td className="num">{number(one.errors)}</td>
              <td className="num">{number(one.refused)}</td>
              <td className="num">{seconds(one.p50)}</td>
              <td className="num">{seconds(one.p99)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
