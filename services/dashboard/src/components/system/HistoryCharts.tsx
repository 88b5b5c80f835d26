import { useMemo } from "react";
import { useSystemHistory, type Window } from "../../api/system";
import type { SystemHistory } from "../../api/types";
import { Sparkline } from "../../charts/small";
import { TimeChart, type TimeLine } from "../../charts/TimeChart";
import { ago, bytes, number, seconds } from "../../format";
import { useText, type Key, type Translate } from "../../i18n";
import { useInAddress } from "../../state/address";
import { Badge, Card, ErrorView, Loading, Scroll, Segment } from "../basics";

type Point = SystemHistory["points"][number];
const SILENT_SECONDS = 180;

export function WindowChoice({ value, onChange }: { value: Window; onChange: (value: Window) => void }) {
  const t = useText();
  return (
    <Segment
      label={t("system.window")}
      value={value}
      choices={[
        { value: "hour", label: t("system.hour") },
        { value: "day", label: t("system.day") },
      ]}
      onChange={onChange}
    />
  );
}

/** The last hour or day, kept by the server itself. */
export function HistoryCharts() {
  const t = useText();
  const [chosen, setWindow] = useInAddress("window", "hour");
  const window: Window = chosen === "day" ? "day" : "hour";
  const history = useSystemHistory(window);
  return (
    <>
      <Card title={t("system.history")} actions={<WindowChoice value={window} onChange={setWindow} />}>
        {history.isPending && <Loading />}
        {history.error && <ErrorView error={history.error} />}
        {history.data && <Charts history={history.data} />}
      </Card>
      {history.data && <Processes history={history.data} />}
    </>
  );
}

const pluck = (points: readonly Point[], name: Exclude<keyof Point, "at">): (number | null | undefined)[] => points.map((point) => point[name]);

function Charts({ history }: { history: SystemHistory }) {
  const t = useText();
  const times = useMemo(() => history.points.map((point) => Date.parse(point.at) / 1000), [history]);
  const charts = useMemo(() => chartsOf(history, t), [history, t]);
  return (
    <div className="time-charts">
      {charts.map((chart) => (
        <TimeChart key={chart.label} {...chart} times={times} sync="system" />
      ))}
    </div>
  );
}

interface Chart {
  label: string;
  unit: string;
  lines: TimeLine[];
  format: (value: number) => string;
}

function chartsOf({ points, processes, step }: SystemHistory, t: Translate): Chart[] {
  const line = (key: Key, name: Exclude<keyof Point, "at">, color: string): TimeLine => ({ label: t(key), values: pluck(points, name), color });
  const count = (value: number) => number(value, 3);
  const each = t("system.per.slot", { time: seconds(step) });
  const largest = [...processes].sort((a, b) => most(b.memory_bytes) - most(a.memory_bytes)).slice(0, COLORS.length);
  const names = processNames(largest, t);
  const own = (pick: (one: (typeof processes)[number]) => TimeLine["values"]): TimeLine[] =>
    largest.map((one, index) => ({ label: names[index] ?? one.process, values: pick(one), color: COLORS[index] ?? "--train" }));
  return [
    { label: t("system.queue"), unit: t("nav.runs"), format: count, lines: [line("state.queued", "queued", "--valid"), line("state.running", "running", "--train"), line("system.workers", "workers", "--fourth")] },
    { label: t("system.oldest.wait"), unit: t("system.unit.time"), format: time, lines: [line("system.oldest.wait", "oldest_queued_seconds", "--valid")] },
    { label: t("system.predictions"), unit: t("system.per.second"), format: count, lines: [line("system.predictions", "predictions", "--train"), line("system.api", "api_requests", "--fourth")] },
    {
      label: t("system.errors"),
      unit: each,
      format: count,
      lines: [line("system.errors.predict", "predict_errors", "--fifth"), line("system.errors.api", "api_errors", "--valid"), line("system.refused", "refused", "--third"), line("system.shed", "shed", "--fourth")],
    },
    { label: t("system.latency"), unit: t("system.unit.time"), format: time, lines: [line("traffic.p50", "p50", "--train"), line("traffic.p99", "p99", "--valid")] },
    { label: t("system.api.latency"), unit: t("system.unit.time"), format: time, lines: [line("traffic.p50", "api_p50", "--train"), line("traffic.p99", "api_p99", "--valid")] },
    { label: t("system.loads"), unit: each, format: count, lines: [line("system.loads.done", "loads", "--train"), line("system.loads.failed", "load_failures", "--fifth")] },
    { label: t("system.cpu"), unit: t("system.cores"), format: count, lines: own((one) => one.cpu) },
    { label: t("system.memory"), unit: t("system.unit.bytes"), format: memory, lines: own((one) => one.memory_bytes) },
  ];
}

/** Zero needs no unit. */
export const time = (value: number): string => (value === 0 ? "0" : seconds(value));
const memory = (value: number): string => (value === 0 ? "0" : bytes(value));
const COLORS = ["--train", "--valid", "--third", "--fourth", "--fifth"];
const most = (values: readonly (number | null)[]): number => Math.max(0, ...values.map((value) => value ?? 0));

/** Kinds, numbered where there are several. */
function processNames(processes: SystemHistory["processes"], t: Translate): string[] {
  const seen: Record<string, number> = {};
  return processes.map((one) => {
    seen[one.kind] = (seen[one.kind] ?? 0) + 1;
    const several = processes.filter((other) => other.kind === one.kind).length > 1;
    return `${t(`process.${one.kind}` as Key)}${several ? ` ${seen[one.kind] ?? 1}` : ""}`;
  });
}

/** Every process that wrote within the window: where it runs, what it uses, and whether it still does. */
function Processes({ history }: { history: SystemHistory }) {
  const t = useText();
  const names = processNames(history.processes, t);
  const now = Date.parse(history.at) / 1000;
  return (
    <Card title={t("system.processes")} bare>
      <Scroll label={t("system.processes")}>
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t("system.process")}</th>
              <th scope="col">{t("system.host")}</th>
              <th scope="col" className="num">{t("system.cpu")}</th>
              <th scope="col" className="num">{t("system.memory")}</th>
              <th scope="col">{t("system.seen")}</th>
            </tr>
          </thead>
          <tbody>
            {history.processes.map((one, index) => {
              const [cpu, memory] = [one.cpu, one.memory_bytes].map((values) => values.filter((value): value is number => value !== null));
              const silent = now - Date.parse(one.seen_at) / 1000 > SILENT_SECONDS;
              return (
                <tr key={one.process}>
                  <td>{names[index]}</td>
                  <td className="break muted">{one.host}</td>
                  <td className="nowrap num">
                    <Sparkline label={t("system.cpu")} values={cpu ?? []} color="var(--train)" /> {number(cpu?.at(-1), 2)}
                  </td>
                  <td className="nowrap num">
                    <Sparkline label={t("system.memory")} values={memory ?? []} /> {bytes(memory?.at(-1))}
                  </td>
                  <td>{silent ? <Badge tone="plain">{t("system.ended", { time: ago(one.seen_at) })}</Badge> : <span className="muted">{ago(one.seen_at)}</span>}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}
