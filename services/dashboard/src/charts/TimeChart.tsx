import { useEffect, useMemo, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { currentLanguage, useText } from "../i18n";
import { useDark } from "../state/preferences";
import { css } from "./colors";

export interface TimeLine {
  label: string;
  /** Null where nothing was measured: the line has a gap there. */
  values: readonly (number | null | undefined)[];
  /** The name of a CSS variable. */
  color: string;
}

interface Props {
  label: string;
  /** What the numbers are, beside the title: `per second`, `cores`. */
  unit: string;
  /** Seconds since 1970. */
  times: readonly number[];
  lines: readonly TimeLine[];
  format: (value: number) => string;
  height?: number;
  /** Charts with the same key move their cursors together. */
  sync?: string;
}

const clock = (time: number): string =>
  new Date(1000 * time).toLocaleTimeString(currentLanguage(), { hour: "2-digit", minute: "2-digit", hour12: false });

/** Lines over the time of day, from zero, with gaps where nothing was measured. */
export function TimeChart({ label, unit, times, lines, format, height = 150, sync }: Props) {
  const t = useText();
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const dark = useDark();
  const words = useRef(format);
  const data = useMemo<uPlot.AlignedData>(() => [times as number[], ...lines.map((line) => line.values.map((value) => value ?? null))], [times, lines]);
  const now = useRef(data);
  const shape = lines.map((line) => `${line.label}|${line.color}`).join("\n");
  const known = lines.some((line) => line.values.some((value) => value !== null && value !== undefined));

  useEffect(() => {
    words.current = format;
    now.current = data;
    plot.current?.setData(data);
    if (plot.current) showLast(plot.current);
  }, [data, format]);

  useEffect(() => {
    const element = host.current;
    if (!element || !known) return undefined;
    const axis: uPlot.Axis = {
      stroke: css("--ink-3"),
      grid: { stroke: css("--line"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    const made = new uPlot(
      {
        width: Math.max(180, element.clientWidth),
        height,
        cursor: { points: { size: 6 }, ...(sync && { sync: { key: sync } }) },
        legend: { show: true, live: true },
        scales: { y: { range: (_, __, high) => [0, high > 0 ? 1.08 * high : 1] } },
        axes: [
          { ...axis, size: 26, space: 62, values: (_, ticks) => ticks.map(clock) },
          { ...axis, size: 66, space: 34, values: (_, ticks) => ticks.map((tick) => words.current(tick)) },
        ],
        series: [
          { label: t("time"), value: (_, value) => (value === null || value === undefined ? "–" : clock(value)) },
          ...shape.split("\n").map((line): uPlot.Series => {
            const [name = "", color = ""] = line.split("|");
            return {
              label: name,
              stroke: css(color),
              width: 2,
              points: { show: true, size: 5, filter: lonely },
              spanGaps: false,
              value: (_, value) => (value === null || value === undefined ? "–" : words.current(value)),
            };
          }),
        ],
        hooks: { setCursor: [(self) => (self.cursor.left ?? -1) < 0 && showLast(self)] },
      },
      now.current,
      element,
    );
    plot.current = made;
    showLast(made);
    const watch = new ResizeObserver(() => made.setSize({ width: Math.max(180, element.clientWidth), height }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, height, sync, dark, known, t]);

  const spoken = lines.map((line) => `${line.label}: ${lastOf(line.values, format)}`).join("; ");
  return (
    <figure className="time-chart">
      <figcaption>
        {label} <span className="small faint">{unit}</span>
      </figcaption>
      {known ? <div className="curve-chart" ref={host} role="img" aria-label={`${label}, ${unit}. ${spoken}`} /> : <p className="small muted">{t("system.no.samples")}</p>}
    </figure>
  );
}

/** Without a cursor, the legend shows the last moment. */
function showLast(plot: uPlot): void {
  plot.setLegend({ idx: plot.data[0].length - 1 }, false);
}

/** Points between two gaps, which no line would show. */
function lonely(plot: uPlot, series: number): number[] {
  const values = plot.data[series] ?? [];
  const missing = (index: number) => values[index] === null || values[index] === undefined;
  return Array.from(values, (_, index) => index).filter((index) => !missing(index) && missing(index - 1) && missing(index + 1));
}

function lastOf(values: TimeLine["values"], format: (value: number) => string): string {
  const known = values.filter((value): value is number => value !== null && value !== undefined);
  const last = known.at(-1);
  return last === undefined ? "–" : format(last);
}
