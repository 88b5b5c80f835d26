import { useState } from "react";
import { XYChart } from "../charts/small";
import { number, percent } from "../format";
import { useText } from "../i18n";
import { range } from "../spec/conditions";
import { Card, Scroll, Select } from "./basics";

type Json = Record<string, unknown>;
const isJson = (value: unknown): value is Json => value !== null && typeof value === "object" && !Array.isArray(value);

interface Level {
  level: number;
  part: string;
  mean_size: number;
  one_width?: number;
  rows?: number;
  share?: number | null;
  interval?: [number, number] | null;
  /** Of sets: how many rows have a set of 1, 2, ... labels. */
  sizes?: number[];
  groups?: { group: string; held_out_rows: number; by_itself: boolean; mean_size: number | null; rows: number; share: number | null; interval: [number, number] | null }[];
}

/** How many truths intervals and sets hold on unseen rows, and how wide they are, by level. */
export function IntervalWidths({ intervals, labels }: { intervals: unknown; labels: Readonly<Record<string, number>> }) {
  if (!isJson(intervals)) return null;
  return Object.entries(intervals).map(([name, own]) =>
    isJson(own) && Array.isArray(own.levels) && own.levels.length > 0 ? <OutputWidths key={name} name={name} levels={own.levels as Level[]} labels={labels[name] ?? null} /> : null,
  );
}

function OutputWidths({ name, levels, labels }: { name: string; levels: Level[]; labels: number | null }) {
  const t = useText();
  const ordered = [...levels].sort((a, b) => a.level - b.level);
  const sets = labels !== null;
  const measured = ordered.filter((one) => typeof one.share === "number");
  return (
    <Card title={t(sets ? "widths.sets" : "widths.title", { target: name })} bare>
      <p className="card-lead small muted">
        {t(sets ? "widths.sets.lead" : "widths.lead", { part: t(`part.${ordered[0]?.part === "test" ? "test" : "validation"}`) })}
      </p>
      <div className="widths">
        <Scroll label={t("widths.title", { target: name })}>
          <table className="table dense figures" data-testid="widths">
            <thead>
              <tr>
                <th scope="col" className="num">{t("widths.level")}</th>
                <th scope="col" className="num">{t("widths.coverage")}</th>
                <th scope="col" className="num">{t(sets ? "widths.size" : "widths.width")}</th>
                {sets && ordered.some((one) => one.sizes) && <th scope="col">{t("widths.sizes")}</th>}
              </tr>
            </thead>
            <tbody>
              {ordered.map((one) => (
                <tr key={one.level}>
                  <th scope="row" className="num">{percent(one.level, 0)}</th>
                  <td className="num">
                    {percent(one.share)} <div className="small faint">{one.interval ? `${percent(one.interval[0])} – ${percent(one.interval[1])}` : ""}</div>
                  </td>
                  <td className="num">{number(one.mean_size, 4)}</td>
                  {sets && one.sizes && <td>{sizesText(one.sizes)}</td>}
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
        {measured.length > 1 && (
          <div className="body">
            <XYChart
              label={t("widths.plot")}
              lines={[
                { label: "", color: "var(--ink-3)", dash: true, points: [{ x: 0, y: 0 }, { x: 1, y: 1 }] },
                { label: t("widths.coverage"), color: "var(--train)", points: measured.map((one) => ({ x: one.level, y: one.share ?? 0 })) },
                { label: t("widths.level"), color: "var(--train)", dots: true, points: measured.map((one) => ({ x: one.level, y: one.share ?? 0 })) },
              ]}
              x={[0, 1]}
              y={[0, 1]}
              xLabel={t("widths.level")}
              yLabel={t("widths.coverage")}
              size={220}
            />
          </div>
        )}
      </div>
      <Groups levels={ordered} sets={sets} />
    </Card>
  );
}

/** "1: 60%, 2: 40%": the share of rows with each number of labels. */
function sizesText(sizes: readonly number[]): string {
  const total = sizes.reduce((sum, count) => sum + count, 0) || 1;
  return sizes.flatMap((count, index) => (count > 0 ? [`${index + 1}: ${percent(count / total, 0)}`] : [])).join(", ");
}

/** The groups of `coverage_by` at one level. */
function Groups({ levels, sets }: { levels: Level[]; sets: boolean }) {
  const t = useText();
  const grouped = levels.filter((one) => one.groups && one.groups.length > 0);
  const [chosen, setChosen] = useState("");
  const own = grouped.find((one) => String(one.level) === chosen) ?? grouped.find((one) => one.level === 0.9) ?? grouped[0];
  if (!own?.groups) return null;
  return (
    <>
      <div className="card-lead narrow">
        <Select small label={t("widths.level")} value={String(own.level)} choices={grouped.map((one) => ({ value: String(one.level), label: percent(one.level, 0) }))} onChange={setChosen} />
      </div>
      <Scroll label={t("widths.groups")}>
        <table className="table dense figures">
          <thead>
            <tr>
              <th scope="col">{t("widths.group")}</th>
              <th scope="col" className="num">{t("rows")}</th>
              <th scope="col" className="num">{t("widths.coverage")}</th>
              <th scope="col" className="num">{t(sets ? "widths.size" : "widths.width")}</th>
            </tr>
          </thead>
          <tbody>
            {own.groups.map((group) => (
              <tr key={group.group}>
                <th scope="row">{group.group}</th>
                <td className="num">{number(group.rows)}</td>
                <td className="num">
                  {percent(group.share)} <div className="small faint">{range(group.interval, 2)}</div>
                </td>
                <td className="num">{number(group.mean_size, 4)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}
