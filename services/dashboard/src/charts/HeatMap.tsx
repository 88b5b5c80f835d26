import { useEffect, useRef } from "react";
import { useDark } from "../state/preferences";
import { diverging, pixelOf, rgb } from "./colors";

export interface Point {
  x: number;
  y: number;
  value: number;
  hollow?: boolean;
}

interface Props {
  label: string;
  /** Rows from the lowest y to the highest, each from the lowest x; -1 is orange, 1 is blue. */
  grid: readonly ArrayLike<number>[] | null;
  x: readonly [number, number];
  y: readonly [number, number];
  points?: readonly Point[];
  size?: number;
  discrete?: boolean;
  /** Categorical cells: drawn as squares, without interpolation. */
  cells?: boolean;
  axes?: boolean;
}

/** A network's output over a plane, with its training rows on top. */
export function HeatMap({ label, grid, x, y, points = [], size = 320, discrete = false, cells = false, axes = true }: Props) {
  const field = useRef<HTMLCanvasElement>(null);
  const rows = useRef<HTMLCanvasElement>(null);
  const dark = useDark();
  const smooth = !discrete && !cells;

  // As many pixels as the grid has cells: the browser scales it, away from the page's thread where it can.
  useEffect(() => {
    const context = field.current?.getContext("2d");
    if (context) paint(context, grid ?? [[0]], dark, discrete);
  }, [grid, dark, discrete]);

  // On a canvas of their own, which no frame of learning draws again.
  useEffect(() => {
    const element = rows.current;
    const context = element?.getContext("2d");
    if (!element || !context) return;
    const ratio = Math.min(2, devicePixelRatio || 1);
    const side = Math.round(size * ratio);
    if (element.width !== side || element.height !== side) element.width = element.height = side;
    context.clearRect(0, 0, side, side);
    for (const point of points) {
      const px = ((point.x - x[0]) / (x[1] - x[0])) * side;
      const py = side - ((point.y - y[0]) / (y[1] - y[0])) * side;
      context.beginPath();
      context.arc(px, py, 2.6 * ratio, 0, 2 * Math.PI);
      context.fillStyle = rgb(diverging(Math.sign(point.value) * Math.max(0.35, Math.min(1, Math.abs(point.value))), dark));
      context.fill();
      context.lineWidth = ratio * (point.hollow ? 1.4 : 0.9);
      context.strokeStyle = point.hollow ? (dark ? "#000" : "#333") : "#fff";
      context.stroke();
    }
  }, [points, x, y, size, dark]);

  return (
    <figure className="heat-map" style={{ width: size }}>
      <div className="field" style={{ width: size }}>
        <canvas ref={field} className={smooth ? "" : "hard"} role="img" aria-label={label} />
        <canvas ref={rows} aria-hidden="true" />
      </div>
      {axes && (
        <figcaption className="small faint row between">
          <span>{x[0]}</span>
          <span>{x[1]}</span>
        </figcaption>
      )}
    </figure>
  );
}

function paint(context: CanvasRenderingContext2D, grid: readonly ArrayLike<number>[], dark: boolean, discrete: boolean): void {
  const rows = grid.length;
  const columns = grid[0]?.length ?? 0;
  if (columns === 0) return;
  const { canvas } = context;
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const pixel = pixelOf(dark);
  grid.forEach((line, row) => {
    const start = (rows - 1 - row) * columns;
    for (let column = 0; column < columns; column += 1) {
      const raw = line[column] ?? Number.NaN;
      pixels[start + column] = pixel((discrete ? Math.sign(raw) : raw) * 0.85);
    }
  });
  context.putImageData(image, 0, 0);
}
