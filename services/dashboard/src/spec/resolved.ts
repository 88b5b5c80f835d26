/** Reading a resolved spec. */

interface ResolvedFeature {
  column?: unknown;
}

/** The feature columns of a resolved spec. */
export function featureColumns(resolved: Record<string, unknown>): string[] {
  const features = resolved.features;
  if (!Array.isArray(features)) return [];
  return features.flatMap((feature: unknown) => {
    if (typeof feature === "string") return [feature];
    const column = (feature as ResolvedFeature | null)?.column;
    return typeof column === "string" ? [column] : [];
  });
}

/** Whether a target of a resolved spec is numeric. */
export function asksNumbers(resolved: Record<string, unknown>): boolean {
  const targets = Array.isArray(resolved.target) ? (resolved.target as unknown[]) : [];
  return targets.some((target) => (target as { task?: unknown } | null)?.task === "regression");
}
