import { useState } from "react";
import { useInsight } from "../api/runs";
import type { Fairness, RunDetail, Slices } from "../api/types";
import { number, percent } from "../format";
import { useText, type Key } from "../i18n";
import { metricName } from "../i18n/metrics";
import { conditionText, range, sorted, type ColumnSlices, type SortKey, type WorstSlice } from "../spec/conditions";
import { Badge, Card, Notice, Scroll, Select, Stat } from "./basics";

/** Where the run predicts badly, and for whom. */
export function RunSlices({ run }: { run: RunDetail }) {
  const t = useText();
  const [target, setTarget] = useState<string | null>(null);
  const slices = useInsight<Slices>(run.id, "slices", run.state === "succeeded", target === null ? undefined : { target });
  const fairness = useInsight<Fairness>(run.id, "fairness", run.state === "succeeded");
  const targets = Object.keys(isRecord(run.result?.figures) ? run.result.figures : {});
  return (
    <>
      {targets.length > 1 && (
        <div className="narrow">
          <Select label={t("target")} value={target ?? targets[0] ?? ""} choices={targets} onChange={setTarget} />
        </div>
      )}
      {slices.data && <WorstSlices slices={slices.data} />}
      {slices.data && slices.data.columns.length > 0 && <ByColumn key={slices.data.target} slices={slices.data} />}
      {fairness.data?.items.map((item) => <FairnessCard key={`${String(item.column)} ${String(item.output)}`} item={item as unknown as FairnessItem} />)}
    </>
  );
}

const isRecord = (value: unknown): value is Record<string, unknown> => value !== null && typeof value === "object" && !Array.isArray(value);
const measureOf = (slices: Slices): string => metricName(slices.metric).replaceAll("_", " ");

function WorstSlices({ slices }: { slices: Slices }) {
  const t = useText();
  const [sort, setSort] = useState<{ key: SortKey; reversed: boolean }>({ key: "difference", reversed: false });
  const found = slices.worst as unknown as WorstSlice[];
  const measure = measureOf(slices);
  const heads: { key: SortKey; text: string }[] = [
    { key: "rows", text: t("rows") },
    { key: "value", text: measure },
    { key: "difference", text: t("slices.difference") },
    { key: "p_adjusted", text: t("slices.p") },
  ];
  const press = (key: SortKey) => setSort((old) => ({ key, reversed: old.key === key ? !old.reversed : false }));
  const falling = (key: SortKey) => (key === "p_adjusted") === sort.reversed;
  return (
    <Card title={t("slices.title", { target: slices.target })} bare>
      <p className="card-lead small muted">{t("slices.lead", { rows: number(slices.rows), measure, value: number(slices.value), rate: percent(slices.false_discoveries, 0) })}</p>
      {found.length === 0 ? (
        <p className="card-lead">{slices.rows < slices.fewest_searched ? t("slices.few", { n: slices.fewest_searched }) : t("slices.none")}</p>
      ) : (
        <Scroll label={t("slices.title", { target: slices.target })}>
          <table className="table figures" data-testid="worst-slices">
            <thead>
              <tr>
                <th scope="col">{t("slices.where")}</th>
                {heads.map(({ key, text }) => (
                  <th key={key} scope="col" className="num" aria-sort={sort.key === key ? (falling(key) ? "descending" : "ascending") : "none"}>
                    <button type="button" className="sorter" onClick={() => press(key)}>
                      {text}
                      <span aria-hidden="true">{sort.key === key ? (falling(key) ? " ↓" : " ↑") : ""}</span>
                    </button>
                  </th>
                ))}
                <th scope="col" className="num">
                  {t("slices.rest")}
                </th>
              </tr>
            </thead>
            <tbody>
              {sorted(found, sort.key, sort.reversed).map((slice) => (
                <tr key={JSON.stringify(slice.conditions)}>
                  <td>
                    {slice.conditions.map((one) => (
                      <div key={one.column} className="break">
                        {conditionText(one, t)}
                      </div>
                    ))}
                  </td>
                  <td className="num">
                    {number(slice.rows)} <span className="faint">({percent(slice.share)})</span>
                  </td>
                  <td className="num">
                    {number(slice.value)} <div className="small faint">{range(slice.interval)}</div>
                  </td>
                  <td className="num">
                    +{number(slice.difference)} <div className="small faint">{range(slice.difference_interval)}</div>
                  </td>
                  <td className="num">{number(slice.p_adjusted, 2)}</td>
                  <td className="num">{number(slice.rest)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Card>
  );
}

function ByColumn({ slices }: { slices: Slices }) {
  const t = useText();
  const columns = slices.columns as unknown as ColumnSlices[];
  const [chosen, setChosen] = useState(columns[0]?.column ?? "");
  const own = columns.find((one) => one.column === chosen) ?? columns[0];
  const more = Object.keys(slices.more);
  if (!own) return null;
  return (
    <Card title={t("slices.bycolumn")} level={3} bare actions={<Select small hideLabel label={t("slices.column")} value={own.column} choices={columns.map((one) => one.column)} onChange={setChosen} />}>
      <Scroll label={t("slices.bycolumn")}>
        <table className="table dense figures" data-testid="column-slices">
          <thead>
            <tr>
              <th scope="col">{own.column}</th>
              <th scope="col" className="num">{t("rows")}</th>
              <th scope="col" className="num">{measureOf(slices)}</th>
              {more.map((name) => (
                <th key={name} scope="col" className="num">
                  {metricName(name).replaceAll("_", " ")}
                </th>
              ))}
              <th scope="col" className="num">{t("slices.rest")}</th>
              <th scope="col">
                <span className="visually-hidden">{t("slices.verdict")}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {own.items.map((item) => (
              <tr key={JSON.stringify(item.condition)}>
                <td className="break">{conditionText(item.condition, t)}</td>
                <td className="num">
                  {number(item.rows)} <span className="faint">({percent(item.share)})</span>
                </td>
                <td className="num">
                  {number(item.value)} <span className="small faint">{range(item.interval)}</span>
                </td>
                {more.map((name) => (
                  <td key={name} className="num">
                    {number(item.more[name], 3)}
                  </td>
                ))}
                <td className="num">{number(item.rest)}</td>
                <td>{item.worse && <Badge tone="warn">{t("slices.worse")}</Badge>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {slices.left_out > 0 && <p className="card-lead small faint">{t("slices.leftout", { n: slices.left_out })}</p>}
    </Card>
  );
}

interface Group {
  group: string | null;
  rows: number;
  small: boolean;
  intervals: Record<string, [number, number] | null>;
  [figure: string]: unknown;
}

interface Compared {
  label?: string;
  groups: Group[];
  differences: Record<string, { value: number | null; interval: [number, number] | null }> | null;
}

interface FairnessItem {
  column: string;
  output: string;
  min_group: number;
  labels: Compared[];
  numbers: Compared | null;
}

const RATES = ["selection_rate", "true_positive_rate", "false_positive_rate", "precision", "calibration_error"];
const ERRORS = ["mean_error", "mae", "rmse"];
const DIFFERENCES = ["demographic_parity_difference", "demographic_parity_ratio", "equalized_odds_difference", "mean_error_difference", "mae_difference"];

function FairnessCard({ item }: { item: FairnessItem }) {
  const t = useText();
  const [label, setLabel] = useState(item.labels[0]?.label ?? "");
  const own = item.numbers ?? item.labels.find((one) => one.label === label) ?? item.labels[0];
  if (!own) return null;
  const names = item.numbers ? ERRORS : RATES;
  const known = Object.entries(own.differences ?? {}).filter(([name]) => DIFFERENCES.includes(name));
  return (
    <Card
      title={t("fairness.title", { output: item.output, column: item.column })}
      bare
      actions={
        item.labels.length > 1 ? <Select small hideLabel label={t("label")} value={own.label ?? ""} choices={item.labels.map((one) => one.label ?? "")} onChange={setLabel} /> : undefined
      }
    >
      <p className="card-lead small muted">{item.numbers ? t("fairness.lead.numbers") : t("fairness.lead", { label: own.label ?? "" })}</p>
      {own.differences === null && (
        <div className="card-lead">
          <Notice>{t("fairness.small", { n: item.min_group })}</Notice>
        </div>
      )}
      {known.length > 0 && (
        <div className="stats card-lead">
          {known.map(([name, one]) => (
            <Stat key={name} name={t(`fairness.${name}` as Key)} value={number(one.value, 3)} note={range(one.interval) || undefined} />
          ))}
        </div>
      )}
      <Scroll label={t("fairness.title", { output: item.output, column: item.column })}>
        <table className="table dense figures" data-testid="fairness">
          <thead>
            <tr>
              <th scope="col">{item.column}</th>
              <th scope="col" className="num">{t("rows")}</th>
              {names.map((name) => (
                <th key={name} scope="col" className="num">
                  {t(`fairness.${name}` as Key)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {own.groups.map((group) => (
              <tr key={group.group ?? "\0"}>
                <th scope="row">
                  <span className="row tight">
                    {group.group ?? t("fairness.missing")}
                    {group.small && <Badge tone="warn">{t("fairness.few")}</Badge>}
                  </span>
                </th>
                <td className="num">{number(group.rows)}</td>
                {names.map((name) => (
                  <td key={name} className="num">
                    {number(group[name] as number | null, 3)} <div className="small faint">{range(group.intervals[name])}</div>
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}
