import { useEffect, useMemo, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { number, ticks } from "../format";
import { useDark } from "../state/preferences";
import { css } from "./colors";

export interface Curve {
  label: string;
  values: readonly (number | null)[];
  /** The name of a CSS variable, such as `--train`. */
  color: string;
  width?: number;
  dash?: number[];
  faint?: boolean;
  /** Omit from the legend: one of many. */
  silent?: boolean;
}

export interface Mark {
  x: number;
  label: string;
  color?: string;
}

interface Props {
  label: string;
  x: readonly number[];
  curves: readonly Curve[];
  marks?: readonly Mark[];
  log?: boolean;
  height?: number;
  xLabel?: string;
  /** Charts with the same key move their cursors together. */
  sync?: string;
  legend?: boolean;
}

/** Lines over epochs. Growing data updates the chart instead of recreating it, so a live curve stays smooth. */
export function CurveChart({ label, x, curves, marks = [], log = false, height = 260, xLabel = "epoch", sync, legend = true }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const marksNow = useRef(marks);
  const dataNow = useRef<uPlot.AlignedData>([[], []]);
  const dark = useDark();
  const shape = curves.map((c) => [c.label, c.color, c.width, c.faint, c.silent, c.dash].join("|")).join("\n");

  const data = useMemo<uPlot.AlignedData>(
    () => [
      x as number[],
      ...curves.map((curve) =>
        curve.values.map((value) => (value === null || !Number.isFinite(value) || (log && value <= 0) ? null : value)),
      ),
    ],
    [x, curves, log],
  );

  useEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const grid = css("--line");
    const ink = css("--ink-3");
    const axis: uPlot.Axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const lines = shape ? shape.split("\n").map((line) => line.split("|")) : [];
    const made = new uPlot(
      {
        width: Math.max(200, element.clientWidth),
        height,
        cursor: { points: { size: 7 }, ...(sync && { sync: { key: sync } }) },
        legend: { show: legend, live: true },
        scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
        axes: [
          { ...axis, label: xLabel, labelSize: 18, labelFont: "12px system-ui, sans-serif", size: 32, incrs: WHOLE },
          { ...axis, size: 62, values: (_, places) => (log ? places.map((tick) => (tick === null ? "" : number(tick, 3))) : ticks(places)) },
        ],
        series: [
          { label: xLabel, value: (_, value) => (value === null || value === undefined ? "–" : String(value)) },
          ...lines.map(([name = "", color = "", width = "", faint = "", , dash = ""]): uPlot.Series => ({
            label: name,
            stroke: css(color),
            width: width ? Number(width) : 2,
            alpha: faint === "true" ? 0.28 : 1,
            points: { show: (own, at) => isAlone(own.data[at] ?? []) },
            ...(dash && { dash: dash.split(",").map(Number) }),
            value: (_, value) => (value === null ? "–" : number(value, 4)),
          })),
        ],
        hooks: { draw: [(self) => drawMarks(self, marksNow.current)], setCursor: [(self) => (self.cursor.left ?? -1) < 0 && showLast(self)] },
      },
      dataNow.current,
      element,
    );
    plot.current = made;
    showLast(made);
    // Lines without a legend entry: the many behind the best.
    const rows = made.root.querySelectorAll<HTMLElement>(".u-legend .u-series");
    lines.forEach((line, index) => {
      if (line[4] === "true") rows[index + 1]?.remove();
    });
    const watch = new ResizeObserver(() => made.setSize({ width: Math.max(200, element.clientWidth), height }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, log, height, xLabel, sync, dark, legend]);

  useEffect(() => {
    marksNow.current = marks;
    dataNow.current = data;
    plot.current?.setData(data);
    if (plot.current) showLast(plot.current);
  }, [data, marks, shape, log, height, dark]);

  return <div className="curve-chart" ref={host} role="img" aria-label={`${label}. ${spoken(curves)}`} />;
}

/** Whether a line has one value only, which is drawn as a point: there is nothing to connect it with. */
function isAlone(values: ArrayLike<number | null | undefined>): boolean {
  let known = 0;
  for (let at = 0; at < values.length && known < 2; at += 1) if (values[at] !== null && values[at] !== undefined) known += 1;
  return known === 1;
}

/** Without a cursor, the legend shows where each line ends. */
function showLast(plot: uPlot): void {
  if (plot.data[0].length === 0) return;
  plot.setLegend({ idxs: plot.data.map((values) => Math.max(0, Array.from(values).findLastIndex((value) => value !== null && value !== undefined))) }, false);
}

// Epochs and trials are whole numbers.
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];

function spoken(curves: readonly Curve[]): string {
  return curves
    .filter((curve) => !curve.silent && !curve.faint)
    .map((curve) => {
      const known = curve.values.filter((value) => value !== null);
      return known.length > 0 ? `${curve.label}: ${number(known[0] ?? 0)} → ${number(known.at(-1) ?? 0)}` : curve.label;
    })
    .join("; ");
}

function drawMarks(plot: uPlot, marks: readonly Mark[]): void {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  marks.forEach((mark, index) => {
    const x = Math.round(plot.valToPos(mark.x, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.strokeStyle = ctx.fillStyle = css(mark.color ?? "--ink-3");
    ctx.setLineDash([4 * ratio, 4 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    // Above the lines, so that it covers none; of several, the second under the first.
    const half = ctx.measureText(mark.label).width / 2;
    const middle = Math.min(Math.max(x, bbox.left + half), bbox.left + bbox.width - half);
    ctx.textAlign = "center";
    ctx.fillText(mark.label, middle, bbox.top + (14 * index - 5) * ratio);
  });
  ctx.restore();
}
