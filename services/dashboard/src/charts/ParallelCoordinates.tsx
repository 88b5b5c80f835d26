import { number } from "../format";

export interface Axis {
  name: string;
  /** The place of each line's value, from 0 to 1; null where it has none. */
  places: readonly (number | null)[];
  ticks: readonly { at: number; text: string }[];
}

interface Props {
  label: string;
  axes: readonly Axis[];
  /** How good each line is, from 0 to 1. */
  good: readonly number[];
  chosen: number | null;
}

/** A line for each trial over one axis for each thing that differs. */
export function ParallelCoordinates({ label, axes, good, chosen }: Props) {
  const [width, height, pad] = [Math.max(420, 170 * axes.length), 240, 34];
  const x = (axis: number) => 60 + (axis * (width - 150)) / Math.max(1, axes.length - 1);
  const y = (place: number) => height - pad - place * (height - 2 * pad);
  const line = (index: number) =>
    axes
      .map((axis, at) => [at, axis.places[index] ?? null] as const)
      .filter((point): point is readonly [number, number] => point[1] !== null)
      .map(([at, place]) => `${x(at).toFixed(1)},${y(place).toFixed(1)}`)
      .join(" ");
  const order = good.map((_, index) => index).sort((a, b) => (good[a] ?? 0) - (good[b] ?? 0));
  return (
    <svg className="xy whole" viewBox={`0 0 ${width} ${height}`} width={width} role="img" aria-label={label}>
      {order.map((index) => (
        <polyline
          key={index}
          points={line(index)}
          fill="none"
          stroke={index === chosen ? "var(--valid)" : "var(--train)"}
          strokeWidth={index === chosen ? 3.5 : 1.4}
          opacity={index === chosen ? 1 : 0.12 + 0.75 * (good[index] ?? 0) ** 3}
        />
      ))}
      {axes.map((axis, at) => (
        <g key={axis.name}>
          <line className="gridline" x1={x(at)} x2={x(at)} y1={y(0)} y2={y(1)} />
          <text x={x(at)} y={14} textAnchor="middle">
            {axis.name}
          </text>
          {axis.ticks.map((tick) => (
            <text key={tick.text} x={x(at) + 5} y={y(tick.at) + 4}>
              {tick.text}
            </text>
          ))}
        </g>
      ))}
    </svg>
  );
}

const short = (value: unknown): string => {
  const text = typeof value === "number" ? number(value) : typeof value === "string" ? value : JSON.stringify(value).replace(/["{}]/g, "");
  return text.length > 16 ? `${text.slice(0, 15)}…` : text;
};

/** The axis of values that are numbers, on a logarithmic scale where they span orders of magnitude, or of anything. */
export function axisOf(name: string, values: readonly unknown[]): Axis {
  const known = values.filter((value) => value !== undefined && value !== null);
  if (known.length > 0 && known.every((value): value is number => typeof value === "number" && Number.isFinite(value))) {
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const log = low > 0 && high / low > 50;
    const scale = (value: number) => (log ? Math.log(value) : value);
    const place = (value: number) => (high === low ? 0.5 : (scale(value) - scale(low)) / (scale(high) - scale(low)));
    const ends = high === low ? [low] : [low, high];
    return {
      name,
      places: values.map((value) => (typeof value === "number" ? place(value) : null)),
      ticks: ends.map((end) => ({ at: place(end), text: number(end) })),
    };
  }
  const texts = [...new Set(known.map((value) => JSON.stringify(value)))];
  const place = (text: string) => (texts.length === 1 ? 0.5 : texts.indexOf(text) / (texts.length - 1));
  return {
    name,
    places: values.map((value) => (value === undefined || value === null ? null : place(JSON.stringify(value)))),
    ticks: texts.slice(0, 12).map((text) => ({ at: place(text), text: short(JSON.parse(text) as unknown) })),
  };
}
