import { memo, useCallback, useLayoutEffect, useMemo, useRef, useState } from "react";
import { FieldMap } from "../charts/FieldMap";
import { number } from "../format";
import { useText } from "../i18n";
import { placeOf, sizesOf, toned, type Feature, type Form, FEATURES, type Plane, type Squash } from "../spec/tinynet";
import { NumberInput } from "./basics";
import { FEATURE_NAMES } from "./featureNames";

const NODE = 36;
const GAP = 12;
const TOP = 30;
const LEAST_STEP = 68;
const MOST_STEP = 150;
const STEPS = 40; // between the thinnest line and the widest

/** A weight, or a bias if `from` is null; layers count from 0, the output layer is the last. */
export interface Wire {
  layer: number;
  from: number | null;
  to: number;
}

/** Outputs over the plane of every layer's units, the output layer last. */
export type Maps = readonly (readonly Float32Array[])[];

/** A unit whose map is shown enlarged; while the network learns, its map is a new one at each epoch. */
export interface HoveredUnit {
  name: string;
  of: (maps: Maps | null, plane: Plane) => Float32Array | undefined;
}

interface Props {
  form: Form;
  plane: Plane;
  /** Null while there is no network. */
  maps: Maps | null;
  weights: ArrayLike<number> | null;
  onFeature: ((feature: Feature, on: boolean) => void) | null;
  onEdit: ((place: number, value: number) => void) | null;
  onHover: (unit: HoveredUnit | null) => void;
}

/** Features and units as maps, and each weight as a line whose width is its magnitude; clicking a line edits it. */
export function PlayNetwork({ form, plane, maps, weights, onFeature, onEdit, onHover }: Props) {
  const t = useText();
  const host = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(600);
  const [inspected, setInspected] = useState<{ wire: Wire; x: number; y: number; editing: boolean } | null>(null);
  useLayoutEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const watch = new ResizeObserver(() => setWidth(element.clientWidth));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  const sizes = sizesOf(form);
  const places = useMemo(() => layOut(form, width), [form, width]);
  const toning = (layer: number) => (layer === sizes.length - 1 ? form.output : form.activation);
  const valueAt = (wire: Wire) => weights?.[placeOf(form, wire.layer, wire.from, wire.to)];
  const mayEdit = onEdit !== null;
  const inspect = useCallback(
    (wire: Wire, x: number, y: number, editing: boolean) =>
      setInspected((old) => (old?.editing && !editing ? old : { wire, x: Math.max(4, Math.min(x - 60, places.width - 136)), y, editing: editing && mayEdit })),
    [places.width, mayEdit],
  );
  const shownValue = inspected ? valueAt(inspected.wire) : undefined;
  return (
    <div className="play-network" ref={host}>
      <div className="stage" style={{ width: places.width, height: places.height }} onPointerLeave={() => setInspected((old) => (old?.editing ? old : null))}>
        <svg width={places.width} height={places.height} aria-hidden="true">
          {places.wires.map(({ wire, path }) => {
            const value = valueAt(wire) ?? 0;
            // In steps that the eye does not see: most lines stay as they are from frame to frame.
            const strength = Math.round(STEPS * Math.min(1, Math.abs(value) / 2)) / STEPS;
            return <path key={path} d={path} className={value < 0 ? "wire neg" : "wire pos"} strokeWidth={weights ? 0.5 + 6 * strength : 1} opacity={weights ? 0.25 + 0.7 * strength : 0.25} />;
          })}
          {weights !== null && <Targets places={places} onHold={inspect} />}
        </svg>
        {FEATURES.map((feature, at) => {
          const on = form.features.includes(feature);
          const place = places.features[at] ?? { x: 0, y: 0 };
          return (
            <button
              key={feature}
              type="button"
              className={on ? "node feature" : "node feature off"}
              style={{ left: place.x, top: place.y }}
              aria-pressed={on}
              disabled={onFeature === null || (on && form.features.length === 1)}
              onClick={() => onFeature?.(feature, !on)}
              onPointerEnter={() => onHover({ name: FEATURE_NAMES[feature], of: (_, plane) => toned(plane.feature(feature), "linear") })}
              onPointerLeave={() => onHover(null)}
            >
              <span className="name">{FEATURE_NAMES[feature]}</span>
              <FeatureMap plane={plane} feature={feature} />
            </button>
          );
        })}
        {places.units.map((column, layer) =>
          column.map((place, unit) => {
            const values = maps?.[layer]?.[unit];
            const shades = values ? toned(values, toning(layer)) : null;
            const name = layer === sizes.length - 1 ? t("play.output") : t("play.unit", { unit: unit + 1, layer: layer + 1 });
            const bias = { layer, from: null, to: unit };
            return (
              <div key={`${layer}.${unit}`} className="node" style={{ left: place.x, top: place.y }} onPointerEnter={() => onHover({ name, of: (now) => tonedUnit(now, layer, unit, toning(layer)) })} onPointerLeave={() => onHover(null)}>
                <FieldMap label={name} values={shades} size={NODE} />
                {weights !== null && (
                  <span
                    className={(valueAt(bias) ?? 0) < 0 ? "bias neg" : "bias pos"}
                    aria-hidden="true"
                    onPointerEnter={() => inspect(bias, place.x, place.y + NODE + 4, false)}
                    onClick={() => inspect(bias, place.x, place.y + NODE + 4, true)}
                  />
                )}
              </div>
            );
          }),
        )}
        {inspected !== null && shownValue !== undefined && (
          <div className={inspected.editing ? "wire-card editing" : "wire-card"} style={{ left: inspected.x, top: inspected.y + 8 }} role={inspected.editing ? "dialog" : undefined} aria-label={t("play.weight")}>
            <span className="small muted">{inspected.wire.from === null ? t("play.bias") : t("play.weight")}</span>
            {inspected.editing && onEdit ? (
              <form
                onSubmit={(event) => {
                  event.preventDefault();
                  setInspected(null);
                }}
                onKeyDown={(event) => event.key === "Escape" && setInspected(null)}
                onBlur={(event) => !event.currentTarget.contains(event.relatedTarget) && setInspected(null)}
              >
                <NumberInput small focused label={inspected.wire.from === null ? t("play.bias") : t("play.weight")} value={rounded(shownValue)} onChange={(next) => next !== null && onEdit(placeOf(form, inspected.wire.layer, inspected.wire.from, inspected.wire.to), next)} />
              </form>
            ) : (
              <span className="num">{number(shownValue, 3)}</span>
            )}
          </div>
        )}
      </div>
    </div>
  );
}

export const rounded = (value: number): number => Number(value.toPrecision(4));

const FeatureMap = memo(function FeatureMap({ plane, feature }: { plane: Plane; feature: Feature }) {
  const values = useMemo(() => toned(plane.feature(feature), "linear"), [plane, feature]);
  return <FieldMap label={null} values={values} size={NODE} />;
});

interface Spot {
  x: number;
  y: number;
}

interface Places {
  width: number;
  height: number;
  features: Spot[];
  units: Spot[][];
  wires: { wire: Wire; path: string; middle: Spot }[];
}

/** A unit's map in shades; none where the network has no such unit any more. */
function tonedUnit(maps: Maps | null, layer: number, unit: number, squash: Squash): Float32Array | undefined {
  const values = maps?.[layer]?.[unit];
  return values && toned(values, squash);
}

/** Lay the nodes out: features on the left, the output on the right, each column centred vertically. */
function layOut(form: Form, width: number): Places {
  const sizes = sizesOf(form);
  const left = 40; // for the features' names
  const step = Math.max(LEAST_STEP, Math.min(MOST_STEP, (width - left - NODE - 8) / sizes.length));
  const height = TOP + FEATURES.length * (NODE + GAP) + 40;
  const column = (count: number, x: number): Spot[] =>
    Array.from({ length: count }, (_, at) => ({ x, y: (height - count * (NODE + GAP) + GAP) / 2 + at * (NODE + GAP) }));
  const features = column(FEATURES.length, left);
  const units = sizes.map((size, layer) => column(size, left + (layer + 1) * step));
  const wires = units.flatMap((own, layer) => {
    const before = layer === 0 ? form.features.map((name) => features[FEATURES.indexOf(name)] ?? { x: 0, y: 0 }) : (units[layer - 1] ?? []);
    return before.flatMap((source, from) =>
      own.map((place, to) => {
        const [x0, y0, x1, y1] = [source.x + NODE, source.y + NODE / 2, place.x, place.y + NODE / 2];
        const bend = (x1 - x0) / 2;
        return { wire: { layer, from, to }, path: `M${x0},${y0} C${x0 + bend},${y0} ${x1 - bend},${y1} ${x1},${y1}`, middle: { x: (x0 + x1) / 2, y: (y0 + y1) / 2 } };
      }),
    );
  });
  return { width: Math.ceil(left + sizes.length * step + NODE + 4), height, features, units, wires };
}

/** Wide invisible lines over the visible ones, so a thin weight is easy to hit. */
const Targets = memo(function Targets({ places, onHold }: { places: Places; onHold: (wire: Wire, x: number, y: number, editing: boolean) => void }) {
  return (
    <>
      {places.wires.map(({ wire, path, middle }) => (
        <path key={path} d={path} className="wire-target" data-wire={`${wire.layer}.${wire.from ?? "b"}.${wire.to}`} onPointerEnter={() => onHold(wire, middle.x, middle.y, false)} onClick={() => onHold(wire, middle.x, middle.y, true)} />
      ))}
    </>
  );
});
