import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { get, seg } from "../api/client";
import type { Traffic } from "../api/types";
import { Sparkline } from "../charts/small";
import { number } from "../format";
import { useText } from "../i18n";
import { pace, type Pace } from "../spec/traffic";
import { Card, ErrorView, Loading, Scroll, Stat } from "./basics";

const EVERY = 3000; // ms
const MOST_PACES = 40; // looks

interface History {
  last: Traffic | null;
  paces: readonly Pace[];
}

/** Requests per second and latency of the serving versions, measured between two polls. */
export function ModelTraffic({ name }: { name: string }) {
  const t = useText();
  const traffic = useQuery({
    queryKey: ["traffic", name],
    queryFn: ({ signal }) => get<Traffic>(`/api/v1/models/${seg(name)}/traffic`, undefined, signal),
    refetchInterval: EVERY,
    staleTime: 0,
  });
  const [history, setHistory] = useState<History>({ last: null, paces: [] });
  const { data } = traffic;
  if (data && data !== history.last) {
    const next = history.last === null ? null : pace(history.last, data);
    setHistory({ last: data, paces: next === null ? history.paces : [...history.paces, next].slice(-MOST_PACES) });
  }
  const now = history.paces.at(-1);
  const total = data?.versions.reduce((sum, one) => sum + one.requests, 0) ?? 0;
  return (
    <Card title={t("traffic.title")}>
      {traffic.isPending && <Loading />}
      {traffic.error && <ErrorView error={traffic.error} />}
      {data && (
        <div className="stack">
          <div className="stats">
            <Stat name={t("traffic.rate")} value={now ? `${number(now.rate, 3)}/s` : "–"} note={<Sparkline label={t("traffic.rate")} values={history.paces.map((one) => one.rate)} />} />
            <Stat name={t("traffic.p50")} value={millis(now?.p50)} />
            <Stat name={t("traffic.p99")} value={millis(now?.p99)} note={<Sparkline label={t("traffic.p99")} values={history.paces.map((one) => one.p99 ?? 0)} />} />
            <Stat name={t("traffic.total")} value={number(total)} note={t("traffic.processes", { n: data.processes })} />
          </div>
          {data.versions.length > 0 && (
            <Scroll>
              <table className="table dense">
                <thead>
                  <tr>
                    <th scope="col" className="num">{t("version")}</th>
                    <th scope="col" className="num">{t("traffic.total")}</th>
                    <th scope="col" className="num">{t("rows")}</th>
                    <th scope="col" className="num">{t("traffic.mean")}</th>
                  </tr>
                </thead>
                <tbody>
                  {data.versions.map((one) => (
                    <tr key={one.version}>
                      <td className="num">{one.version}</td>
                      <td className="num">{number(one.requests)}</td>
                      <td className="num">{number(one.rows)}</td>
                      <td className="num">{millis(one.requests > 0 ? one.seconds / one.requests : null)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </Scroll>
          )}
        </div>
      )}
    </Card>
  );
}

const millis = (seconds: number | null | undefined): string => (seconds === null || seconds === undefined ? "–" : `${number(seconds * 1000, 3)} ms`);
