import type { ModelDetail } from "../api/types";
import { number } from "../format";
import { useText } from "../i18n";
import { metricName } from "../i18n/metrics";
import { Scroll } from "./basics";

/** The figures of the rows that were held out, or else of those that validated. */
export function heldOut(metrics: Record<string, unknown>): [string, number][] {
  const part = (metrics["test"] ?? metrics["validation"] ?? metrics) as Record<string, unknown>;
  return Object.entries(part).filter((entry): entry is [string, number] => typeof entry[1] === "number");
}

/** What a promotion changes, by what each version reached on its own held-out rows. */
export function MetricDifference({ model, base, to }: { model: ModelDetail; base: number | null; to: number }) {
  const t = useText();
  const metricsOf = (version: number | null) => new Map(heldOut(model.versions.find((one) => one.version === version)?.metrics ?? {}));
  const [before, after] = [metricsOf(base), metricsOf(to)];
  const names = [...after.keys()].filter((name) => before.has(name)).slice(0, 6);
  if (base === null || base === to || names.length === 0) return null;
  return (
    <Scroll label={t("rollout.metrics")}>
      <table className="table dense">
        <caption className="small muted">{t("rollout.metrics")}</caption>
        <thead>
          <tr>
            <th scope="col">{t("metric")}</th>
            <th scope="col" className="num">v{base}</th>
            <th scope="col" className="num">v{to}</th>
            <th scope="col" className="num">{t("rollout.difference")}</th>
          </tr>
        </thead>
        <tbody>
          {names.map((name) => {
            const [old = 0, now = 0] = [before.get(name), after.get(name)];
            return (
              <tr key={name}>
                <td>{metricName(name)}</td>
                <td className="num">{number(old)}</td>
                <td className="num">{number(now)}</td>
                <td className="num">
                  {now > old && "+"}
                  {number(now - old, 3)}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}
