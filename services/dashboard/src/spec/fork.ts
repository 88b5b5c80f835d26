/** Forks: where a resolved spec goes on with another optimizer. */

export interface Fork {
  /** The last epoch that is trained as before. */
  after: number;
  optimizer: string;
  rate: number | null;
}

interface Named {
  name: string;
  rate: number | null; // null: a schedule
}

type Written = Record<string, { learning_rate?: unknown }>;
interface Training {
  seed?: number;
  optimizer?: Written;
  switches?: { after: number; optimizer: Written }[];
}

const trainingOf = (resolved: Record<string, unknown>): Training => (resolved.training ?? {}) as Training;

function named(optimizer: Written | undefined): Named {
  const [name, args] = Object.entries(optimizer ?? {})[0] ?? ["", {}];
  return { name, rate: typeof args.learning_rate === "number" ? args.learning_rate : null };
}

/** The last change of the optimizer in a resolved spec; null where it has none. */
export function changeOf(resolved: Record<string, unknown>): Fork | null {
  const last = trainingOf(resolved).switches?.at(-1);
  if (!last) return null;
  const { name, rate } = named(last.optimizer);
  return { after: last.after, optimizer: name, rate };
}

/** The optimizer that trains an epoch (from 1), and its learning rate. */
export function optimizerAt(resolved: Record<string, unknown>, epoch: number): Named {
  const { optimizer, switches = [] } = trainingOf(resolved);
  return named(switches.filter((one) => one.after < epoch).at(-1)?.optimizer ?? optimizer);
}

/** The changes of the optimizer in a few words: `5: Adam 0.0001`. */
export const switchesText = (switches: Training["switches"]): string =>
  (switches ?? []).map((one) => [`${one.after}:`, named(one.optimizer).name, named(one.optimizer).rate ?? []].flat().join(" ")).join(", ");

/** The seed of a resolved spec's first network. */
export const seedOf = (resolved: Record<string, unknown>): number => trainingOf(resolved).seed ?? 0;
