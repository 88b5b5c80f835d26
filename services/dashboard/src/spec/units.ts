/** The units of a regression's figures: a network learns a standardized target, and people read dollars. */

/** Keras's metrics with the figure in the target's units that says the same, and the power of the scale that lies between. */
const TWINS: readonly (readonly [string, string, number])[] = [
  ["mean_absolute_error", "mae", 1],
  ["root_mean_squared_error", "rmse", 1],
  ["mean_squared_error", "rmse", 2],
];

type Figures = Readonly<Record<string, unknown>>;
const mapping = (value: unknown): Figures => (value !== null && typeof value === "object" ? (value as Figures) : {});

/** What each metric of an ended run is multiplied by to be in its target's units; a run records both on the same rows. */
export function unitFactors(result: Figures | null | undefined): ReadonlyMap<string, number> {
  const factors = new Map<string, number>();
  for (const [part, own] of Object.entries(mapping(result?.evaluation))) {
    const recorded = mapping(mapping(result?.metrics)[part]);
    const targets = Object.entries(mapping(own));
    for (const [target, values] of targets) {
      const prefix = targets.length > 1 ? `${target}_` : "";
      const scale = scaleOf(recorded, mapping(values), prefix);
      if (scale === null || Math.abs(scale - 1) < 1e-4) continue;
      for (const [metric, , power] of TWINS) factors.set(prefix + metric, scale ** power);
    }
    if (factors.size > 0) break;
  }
  return factors;
}

function scaleOf(recorded: Figures, own: Figures, prefix: string): number | null {
  for (const [metric, twin, power] of TWINS) {
    const [learned, told] = [recorded[prefix + metric], own[twin]];
    if (typeof learned === "number" && typeof told === "number" && learned > 0 && told > 0) return told / learned ** (1 / power);
  }
  return null;
}

/** A metric's factor, `val_` or not. */
export const factorOf = (factors: ReadonlyMap<string, number>, metric: string): number => factors.get(metric.replace(/^val_/, "")) ?? 1;

/** Whether a run's figures of this metric are in standard deviations as long as it has not ended. */
export function isStandardized(resolved: Figures, metric: string): boolean {
  const targets = (Array.isArray(resolved.target) ? resolved.target : []).map(mapping);
  const plain = metric.replace(/^val_/, "");
  return targets.some((one) => one.standardize === true && TWINS.some(([name]) => plain === (targets.length > 1 ? `${String(one.name)}_${name}` : name)));
}
