/** Colours for canvases, which cannot use CSS variables. */

export type Rgb = readonly [number, number, number];

/** Resolve a `light-dark()` variable for a canvas. */
export function css(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

export const SERIES = ["--train", "--valid", "--third", "--fourth", "--fifth"] as const;
export const seriesColor = (index: number): string => `var(${SERIES[index % SERIES.length] ?? "--train"})`;

const NEGATIVE: Rgb = [245, 147, 34];
const POSITIVE: Rgb = [8, 119, 189];
const MIDDLE: { light: Rgb; dark: Rgb } = { light: [232, 234, 235], dark: [34, 40, 51] };

/** Orange for -1, blue for 1, the page's grey between, as in TensorFlow Playground. */
export function diverging(value: number, dark: boolean): Rgb {
  const share = Number.isFinite(value) ? Math.min(1, Math.abs(value)) : 0;
  const [from, to] = [dark ? MIDDLE.dark : MIDDLE.light, value < 0 ? NEGATIVE : POSITIVE];
  return [mix(from[0], to[0], share), mix(from[1], to[1], share), mix(from[2], to[2], share)];
}

const mix = (from: number, to: number, share: number): number => Math.round(from + (to - from) * share);

const SHADES = 255; // on each side of the middle
const shades: { light?: Uint32Array; dark?: Uint32Array } = {};

/** `diverging` as pixels of an image, from one made once: a frame needs tens of thousands. */
export function pixelOf(dark: boolean): (value: number) => number {
  const key = dark ? "dark" : "light";
  const table = (shades[key] ??= Uint32Array.from({ length: 2 * SHADES + 1 }, (_, at) => {
    const [red, green, blue] = diverging((at - SHADES) / SHADES, dark);
    return new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0] ?? 0;
  }));
  return (value) => table[SHADES + Math.round(SHADES * (value > 1 ? 1 : value < -1 ? -1 : value === value ? value : 0))] ?? 0;
}

export const rgb = ([red, green, blue]: Rgb): string => `rgb(${red} ${green} ${blue})`;
