/** A column's profile, as the page draws it. */

/** As the server sends it: which parts it has depends on the column's kind. */
export type ColumnProfile = Record<string, unknown>;

export interface Drawing {
  counts: number[];
  edges: number[] | undefined;
  top: { label: string; count: number }[];
  tokens: { label: string; count: number }[];
  quantiles: [string, number][];
}

const isNumbers = (value: unknown): value is number[] => Array.isArray(value) && value.every((item) => typeof item === "number");

function pairs(value: unknown): { label: string; count: number }[] {
  if (Array.isArray(value)) {
    return value.flatMap((item: unknown) => {
      if (Array.isArray(item)) return [{ label: String(item[0]), count: Number(item[1]) }];
      if (item !== null && typeof item === "object") {
        const { value: name, token, label, count } = item as Record<string, unknown>;
        return [{ label: String(name ?? token ?? label), count: Number(count) }];
      }
      return [];
    });
  }
  if (value !== null && typeof value === "object") {
    return Object.entries(value).map(([label, count]) => ({ label, count: Number(count) }));
  }
  return [];
}

/** Read the server's profile; parts that a kind of column lacks are empty. */
export function drawingOf(profile: ColumnProfile | undefined): Drawing {
  const histogram = (profile?.histogram ?? null) as { counts?: unknown; edges?: unknown } | null;
  const counts = isNumbers(histogram?.counts) ? histogram.counts : [];
  const quantiles = profile?.quantiles;
  return {
    counts,
    edges: isNumbers(histogram?.edges) ? histogram.edges : undefined,
    top: pairs(profile?.top),
    tokens: pairs(profile?.tokens),
    quantiles:
      quantiles !== null && typeof quantiles === "object" && !Array.isArray(quantiles)
        ? Object.entries(quantiles).map(([name, value]) => [name, Number(value)])
        : [],
  };
}
