import { useMemo } from "react";
import type { RunDetail } from "../../api/types";
import { axisOf, ParallelCoordinates } from "../../charts/ParallelCoordinates";
import { modeOf } from "../../charts/curves";
import { XYChart } from "../../charts/small";
import { useText } from "../../i18n";
import { metricName } from "../../i18n/metrics";
import { differences } from "../../spec/compare";
import { factorOf, unitFactors } from "../../spec/units";
import { useInAddress } from "../../state/address";
import { Card, Scroll, Select } from "../basics";
import { plainMetric } from "../RunBits";

const MOST_AXES = 8;
const MOST_VALUES = 40; // of one axis that are not numbers

/** A figure of an ended run's kept weights, such as `val_loss`; null where it has none. */
export function keptFigure(run: RunDetail, metric: string): number | null {
  const parts = (run.result?.metrics ?? {}) as Record<string, Record<string, unknown> | null | undefined>;
  const value = parts[metric.startsWith("val_") ? "validation" : "train"]?.[plainMetric(metric)];
  return typeof value === "number" && Number.isFinite(value) ? value * factorOf(unitFactors(run.result), metric) : null;
}

const valueOf = (text: string | null): unknown => {
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

/** As many of a path's last words as tell it from the others: `Dense/units`, or `0/Dense/units` and `1/Dense/units`. */
export function briefly(path: string, paths: readonly string[]): string {
  const end = (one: string, words: number) => one.split("/").slice(-words).join("/");
  const most = path.split("/").length;
  let words = Math.min(2, most);
  while (words < most && paths.filter((one) => end(one, words) === end(path, words)).length > 1) words += 1;
  return end(path, words);
}

/** What differs between many runs beside what they reached: a line for each run, and one setting against the figure. */
export function CompareMany({ runs, metric }: { runs: readonly RunDetail[]; metric: string }) {
  const t = useText();
  const [asked, setAsked] = useInAddress("x", "");
  const { settings, figures } = useMemo(() => {
    const written = differences(runs.map((run) => run.spec));
    const rows = (written.length > 0 ? written : differences(runs.map((run) => run.resolved))).map((row) => ({ name: row.path, values: row.values.map(valueOf) }));
    const few = rows.filter((row) => row.values.every((value) => value === null || typeof value === "number") || new Set(row.values.map((value) => JSON.stringify(value))).size <= MOST_VALUES);
    return { settings: few.slice(0, MOST_AXES), figures: runs.map((run) => keptFigure(run, metric)) };
  }, [runs, metric]);
  const known = figures.filter((value): value is number => value !== null);
  if (runs.length < 3 || known.length < 2 || settings.length === 0) return null;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const share = (value: number) => (high === low ? 0.5 : (value - low) / (high - low));
  const good = figures.map((value) => (value === null ? 0 : modeOf(plainMetric(metric)) === "min" ? 1 - share(value) : share(value)));
  const numeric = settings.filter((row) => row.values.some((value) => typeof value === "number"));
  const x = numeric.find((row) => row.name === asked) ?? numeric[0];
  const points = x ? x.values.flatMap((value, index) => (typeof value === "number" && figures[index] != null ? [{ x: value, y: figures[index] }] : [])) : [];
  return (
    <div className={x && points.length > 1 ? "many" : ""}>
      <Card title={t("compare.parallel")}>
        <Scroll label={t("compare.parallel")}>
          <ParallelCoordinates
            label={t("compare.parallel")}
            axes={[...settings.map((row) => axisOf(briefly(row.name, settings.map((one) => one.name)), row.values)), axisOf(metricName(metric), figures)]}
            good={good}
            chosen={good.indexOf(Math.max(...good))}
          />
        </Scroll>
      </Card>
      {x && points.length > 1 && (
        <Card
          title={t("compare.scatter")}
          actions={<Select small hideLabel label={t("compare.setting")} value={x.name} choices={numeric.map((row) => row.name)} onChange={setAsked} />}
        >
          <XYChart label={t("compare.scatter")} lines={[{ label: metricName(metric), color: "var(--train)", dots: true, points }]} xLabel={x.name} yLabel={metricName(metric)} />
        </Card>
      )}
    </div>
  );
}
