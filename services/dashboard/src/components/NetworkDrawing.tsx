import { drawnUnits, type Column } from "../spec/network";
import { number } from "../format";

interface Props {
  columns: readonly Column[];
  label: string;
  chosen?: number | null;
  onChoose?: (index: number) => void;
}

const GAP = 19;
const STEP = 104;
const FITTED = 8; // columns that are made to fit; more are scrolled

/** Nodes and edges; a wide layer shows its first units and their total. */
export function NetworkDrawing({ columns, label, chosen, onChoose }: Props) {
  const tallest = Math.max(...columns.map((column) => (column.kind === "pass" ? 1 : drawnUnits(column.units))));
  const height = Math.max(4, tallest) * GAP + 74;
  const width = columns.length * STEP + 10;
  const middle = (height - 58) / 2 + 6;
  const solid = columns.map((column, index) => ({ column, index })).filter(({ column }) => column.kind !== "pass");
  const places = (column: Column): number[] => {
    const count = drawnUnits(column.units);
    return Array.from({ length: count }, (_, at) => middle + (at - (count - 1) / 2) * GAP);
  };
  return (
    <div className="network" role="img" aria-label={label}>
      <svg viewBox={`0 0 ${width} ${height}`} width={width} height={columns.length > FITTED ? height : undefined} className={columns.length > FITTED ? "" : "fitted"}>
        {solid.slice(1).map(({ column, index }, at) => {
          const before = solid[at];
          if (!before) return null;
          const [x0, x1] = [before.index * STEP + STEP / 2, index * STEP + STEP / 2];
          return (
            <g key={index} className="edges">
              {places(before.column).flatMap((y0) =>
                places(column).map((y1) => <line key={`${y0}-${y1}`} x1={x0 + 7} y1={y0} x2={x1 - 7} y2={y1} />),
              )}
            </g>
          );
        })}
        {columns.map((column, index) => {
          const x = index * STEP + STEP / 2;
          const hiddenLayer = index > 0 && index < columns.length - 1;
          return (
            <g
              key={index}
              className={`column ${column.kind} ${chosen === index - 1 && hiddenLayer ? "chosen" : ""}`}
              onClick={hiddenLayer && onChoose ? () => onChoose(index - 1) : undefined}
            >
              <rect className="hit" x={x - STEP / 2 + 6} y={0} width={STEP - 12} height={height} rx={8} />
              {column.kind === "pass" ? (
                <line className="gate" x1={x} x2={x} y1={middle - 42} y2={middle + 42} />
              ) : (
                places(column).map((y) => <circle key={y} cx={x} cy={y} r={7} />)
              )}
              <text className="units" x={x} y={height - 40} textAnchor="middle">
                {column.kind === "pass" ? column.note : column.units === null ? "" : number(column.units)}
              </text>
              <text x={x} y={height - 24} textAnchor="middle">
                {column.title.length > 15 ? `${column.title.slice(0, 14)}…` : column.title}
              </text>
              <text className="note" x={x} y={height - 9} textAnchor="middle">
                {column.kind === "pass" ? "" : column.note}
              </text>
            </g>
          );
        })}
      </svg>
    </div>
  );
}
