import { useMemo } from "react";
import { isLive, useLayers } from "../api/runs";
import type { RunDetail } from "../api/types";
import { CurveChart, type Curve } from "../charts/CurveChart";
import { SERIES } from "../charts/colors";
import { Histogram } from "../charts/small";
import { number, percent } from "../format";
import { useText, type Key } from "../i18n";
import { useInAddress } from "../state/address";
import { Card, Empty, Loading, Scroll, Select } from "./basics";
import { RunWalk } from "./RunWalk";

interface LayerRow {
  name: string;
  [measure: string]: unknown;
}

interface Look {
  epoch: number;
  layers: LayerRow[];
}

const MEASURES = ["gradients", "weights", "updates", "ratio", "sparsity", "saturated", "dead"] as const;
const SHARES = new Set(["sparsity", "saturated", "dead"]);

/** Statistics of each layer during training. */
export function RunLayers({ run }: { run: RunDetail }) {
  const t = useText();
  const [asked, setMeasure] = useInAddress("measure", "gradients");
  const measure = MEASURES.find((one) => one === asked) ?? "gradients";
  const series = useLayers(run.id, isLive(run));
  const { x, names, rows, last, histograms } = useMemo(() => {
    const looked = (series.data?.items ?? []) as unknown as Look[];
    const perEpoch = looked.map((look) => look.layers);
    const all = [...new Set(perEpoch.flat().map((row) => row.name))];
    const final = (series.data?.final as unknown as Look | null | undefined)?.layers ?? [];
    const withHistograms = final.length > 0 ? final : ([...perEpoch].reverse().find((found) => found.some((row) => row.histogram)) ?? []);
    return { x: looked.map((look) => look.epoch), names: all, rows: perEpoch, last: perEpoch.at(-1) ?? [], histograms: withHistograms };
  }, [series.data]);
  const curves = useMemo(
    () =>
      names.slice(0, 12).map((name, index): Curve => ({
        label: name,
        color: SERIES[index % SERIES.length] ?? "--train",
        values: rows.map((found) => {
          const value = found.find((row) => row.name === name)?.[measure];
          return typeof value === "number" ? value : null;
        }),
      })),
    [names, rows, measure],
  );
  if (series.isPending) return <Loading />;
  if (x.length === 0) return <Empty title={t("layers.none")} />;
  const known = MEASURES.filter((name) => rows.some((found) => found.some((row) => typeof row[name] === "number")));
  return (
    <div className="stack">
      <Card
        title={t(`measure.${measure}` as Key)}
        actions={
          <Select small hideLabel label={t("measure")} value={measure} choices={known.map((name) => ({ value: name, label: t(`measure.${name}` as Key) }))} onChange={setMeasure} />
        }
      >
        <CurveChart label={measure} x={x} curves={curves} log={!SHARES.has(measure)} height={300} xLabel={t("epoch")} />
        <p className="small muted">{t(`measure.${measure}.text` as Key)}</p>
      </Card>
      <Card title={t("layers.latest")} bare>
        <Scroll>
          <table className="table dense">
            <thead>
              <tr>
                <th scope="col">{t("layer")}</th>
                {known.map((name) => (
                  <th scope="col" key={name} className="num">
                    {t(`measure.${name}` as Key)}
                  </th>
                ))}
                <th scope="col">{t("histogram")}</th>
              </tr>
            </thead>
            <tbody>
              {last.map((row) => (
                <tr key={row.name}>
                  <td>{row.name}</td>
                  {known.map((name) => (
                    <td key={name} className="num">
                      {typeof row[name] !== "number" ? <span className="faint">–</span> : SHARES.has(name) ? percent(row[name]) : number(row[name], 3)}
                    </td>
                  ))}
                  <td>
                    <WeightHistogram row={histograms.find((one) => one.name === row.name)} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </Card>
      {run.state === "succeeded" && <RunWalk run={run} />}
    </div>
  );
}

function WeightHistogram({ row }: { row: LayerRow | undefined }) {
  const t = useText();
  const found = row?.histogram as { counts: number[]; low: number; high: number } | null | undefined;
  if (!found) return <span className="faint">–</span>;
  const step = (found.high - found.low) / found.counts.length;
  const edges = Array.from({ length: found.counts.length + 1 }, (_, index) => found.low + index * step);
  return <Histogram label={t("histogram")} counts={found.counts} edges={edges} width={120} height={26} />;
}
