/** Small drawings in SVG: histograms, bars, confusion matrices, sparklines. */

import { number, percent } from "../format";

interface HistogramProps {
  label: string;
  counts: readonly number[];
  /** The bins' edges: one more than the counts. */
  edges?: readonly number[] | undefined;
  width?: number;
  height?: number;
  /** A value to mark. */
  at?: number | null;
}

export function Histogram({ label, counts, edges, width = 150, height = 36, at = null }: HistogramProps) {
  const highest = Math.max(1, ...counts);
  const step = width / Math.max(1, counts.length);
  const low = edges?.[0];
  const high = edges?.at(-1);
  const place = at !== null && low !== undefined && high !== undefined && high > low ? ((at - low) / (high - low)) * width : null;
  return (
    <svg className="histogram" viewBox={`0 0 ${width} ${height}`} width={width} height={height} preserveAspectRatio="none" role="img" aria-label={label}>
      {counts.map((count, index) => {
        const tall = count === 0 ? 0 : Math.max(1.5, (count / highest) * (height - 1));
        return (
          <rect key={index} x={index * step} y={height - tall} width={Math.max(1, step - 1)} height={tall} rx={1}>
            <title>{edges ? `${number(edges[index] ?? 0)} – ${number(edges[index + 1] ?? 0)}: ${count}` : String(count)}</title>
          </rect>
        );
      })}
      {place !== null && <line className="at" x1={Math.max(1, Math.min(width - 1, place))} x2={Math.max(1, Math.min(width - 1, place))} y1={0} y2={height} />}
    </svg>
  );
}

export interface Bar {
  label: string;
  value: number;
  text?: string;
  color?: string;
}

/** Labelled bars: class scores, importance, top values. Negative ones extend to the left. */
export function Bars({ label, bars, max }: { label: string; bars: readonly Bar[]; max?: number }) {
  const widest = max ?? Math.max(1e-12, ...bars.map((bar) => Math.abs(bar.value)));
  const signed = bars.some((bar) => bar.value < 0);
  return (
    <ul className="bars" aria-label={label}>
      {bars.map((bar) => {
        const share = Math.min(1, Math.abs(bar.value) / widest) * (signed ? 50 : 100);
        const left = signed ? (bar.value < 0 ? 50 - share : 50) : 0;
        return (
          <li key={bar.label}>
            <span className="clip" title={bar.label}>
              {bar.label}
            </span>
            <span className="bar" aria-hidden="true">
              <span style={{ width: `${share}%`, left: `${left}%`, background: bar.color ?? (bar.value < 0 ? "var(--neg)" : "var(--train)") }} />
            </span>
            <span className="num">{bar.text ?? number(bar.value)}</span>
          </li>
        );
      })}
    </ul>
  );
}

interface MatrixProps {
  labels: readonly string[];
  /** Rows are actual labels, columns predicted ones. */
  matrix: readonly (readonly number[])[];
  actual: string;
  predicted: string;
}

export function ConfusionMatrix({ labels, matrix, actual, predicted }: MatrixProps) {
  return (
    <div className="table-wrap">
      <table className="confusion">
        <caption className="small faint">
          {actual} ↓ · {predicted} →
        </caption>
        <thead>
          <tr>
            <td />
            {labels.map((label) => (
              <th key={label} scope="col" title={label}>
                <span className="clip">{label}</span>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {matrix.map((line, row) => {
            const total = line.reduce((sum, count) => sum + count, 0) || 1;
            return (
              <tr key={row}>
                <th scope="row" title={labels[row]}>
                  <span className="clip">{labels[row]}</span>
                </th>
                {line.map((count, column) => (
                  <td
                    key={column}
                    className="num"
                    title={percent(count / total)}
                    style={{
                      background: `color-mix(in srgb, var(${row === column ? "--train" : "--valid"}) ${Math.round((55 * count) / total)}%, transparent)`,
                    }}
                  >
                    {count}
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** A curve the size of a word. */
export function Sparkline({ values, label, color = "var(--valid)", width = 96, height = 24 }: { values: readonly number[]; label: string; color?: string; width?: number; height?: number }) {
  if (values.length < 5) return null; // two figures are no course
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const path = values
    .map((value, index) => {
      const x = (index / (values.length - 1)) * (width - 2) + 1;
      const y = height - 2 - ((value - low) / (high - low || 1)) * (height - 4);
      return `${index === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
  return (
    <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label}>
      <path d={path} fill="none" stroke={color} strokeWidth={1.6} strokeLinejoin="round" />
    </svg>
  );
}

export interface XY {
  x: number;
  y: number;
}

interface ScatterProps {
  label: string;
  lines: readonly { label: string; points: readonly XY[]; color: string; dash?: boolean; dots?: boolean }[];
  xLabel: string;
  yLabel: string;
  x?: readonly [number, number];
  y?: readonly [number, number];
  size?: number;
}

/** y over x on plain axes: ROC, precision and recall, calibration, predicted against actual. */
export function XYChart({ label, lines, xLabel, yLabel, x, y, size = 250 }: ScatterProps) {
  const all = lines.flatMap((line) => line.points);
  const [x0, x1] = x ?? [Math.min(...all.map((p) => p.x)), Math.max(...all.map((p) => p.x))];
  const [y0, y1] = y ?? [Math.min(...all.map((p) => p.y)), Math.max(...all.map((p) => p.y))];
  const pad = { left: 58, right: 10, top: 8, bottom: 36 };
  const width = size + 60;
  const px = (value: number) => pad.left + ((value - x0) / (x1 - x0 || 1)) * (width - pad.left - pad.right);
  const py = (value: number) => size - pad.bottom - ((value - y0) / (y1 - y0 || 1)) * (size - pad.top - pad.bottom);
  const ticks = [0, 0.5, 1];
  return (
    <svg className="xy" viewBox={`0 0 ${width} ${size}`} width={width} role="img" aria-label={label}>
      {ticks.map((tick) => (
        <g key={tick}>
          <line className="gridline" x1={pad.left} x2={width - pad.right} y1={py(y0 + tick * (y1 - y0))} y2={py(y0 + tick * (y1 - y0))} />
          <text x={pad.left - 6} y={py(y0 + tick * (y1 - y0)) + 4} textAnchor="end">
            {number(y0 + tick * (y1 - y0), 3)}
          </text>
          <text x={px(x0 + tick * (x1 - x0))} y={size - pad.bottom + 15} textAnchor={tick === 0 ? "start" : tick === 1 ? "end" : "middle"}>
            {number(x0 + tick * (x1 - x0), 3)}
          </text>
        </g>
      ))}
      <text x={(width + pad.left) / 2} y={size - 4} textAnchor="middle">
        {xLabel}
      </text>
      <text transform={`translate(9 ${size / 2 - 10}) rotate(-90)`} textAnchor="middle">
        {yLabel}
      </text>
      {lines.map((line) =>
        line.dots ? (
          <g key={line.label} fill={line.color} opacity={0.55}>
            {line.points.map((point, index) => (
              <circle key={index} cx={px(point.x)} cy={py(point.y)} r={2.6} />
            ))}
          </g>
        ) : (
          <polyline
            key={line.label}
            points={line.points.map((point) => `${px(point.x).toFixed(1)},${py(point.y).toFixed(1)}`).join(" ")}
            fill="none"
            stroke={line.color}
            strokeWidth={line.dash ? 1.2 : 2}
            strokeDasharray={line.dash ? "4 4" : undefined}
          />
        ),
      )}
    </svg>
  );
}
