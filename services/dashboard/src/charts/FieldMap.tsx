import { useEffect, useRef } from "react";
import { useDark } from "../state/preferences";
import { pixelOf } from "./colors";

const CELLS = 25; // drawn along each axis

interface Props {
  /** Null next to a visible name. */
  label: string | null;
  /** A square, rows from the lowest y up, -1 is orange and 1 blue; null if unknown. */
  values: Float32Array | null;
  size: number;
}

/** The small map of a feature or of a unit. */
export function FieldMap({ label, values, size }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const dark = useDark();
  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context) return;
    const side = values ? Math.sqrt(values.length) : 1;
    const every = Math.max(1, Math.floor(side / CELLS));
    const cells = Math.max(1, Math.floor(side / every));
    if (element.width !== cells) element.width = element.height = cells;
    const image = new ImageData(cells, cells);
    const pixels = new Uint32Array(image.data.buffer);
    const pixel = pixelOf(dark);
    for (let row = 0; row < cells; row += 1) {
      for (let column = 0; column < cells; column += 1) {
        const value = values?.[(row * every + (every >> 1)) * side + column * every + (every >> 1)] ?? 0;
        pixels[(cells - 1 - row) * cells + column] = pixel(value * 0.9);
      }
    }
    context.putImageData(image, 0, 0);
  }, [values, dark]);
  return <canvas ref={canvas} className="field-map" {...(label === null ? { "aria-hidden": true } : { role: "img", "aria-label": label })} style={{ width: size, height: size }} />;
}
