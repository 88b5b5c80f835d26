/** Features by name or by pattern: which columns a spec's list means, and the shortest list for some columns. */

const WILD = /[*?]/;
const MIN_GROUP = 3; // columns that are worth a pattern
const LONGEST_PREFIX = 40;
const FEW = 3; // names that are clearer than what is left out

/** A pattern of a spec (`*` any text, `?` one character) as a test of names. */
export function matcher(pattern: string): (name: string) => boolean {
  const text = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, "[\\s\\S]*").replace(/\?/g, "[\\s\\S]");
  const match = new RegExp(`^${text}$`);
  return (name) => match.test(name);
}

/** The columns that a spec's names and patterns stand for, of those that can be features. */
export function expand(written: readonly string[], usable: readonly string[]): string[] {
  const known = new Set(usable);
  const isPattern = (name: string) => !known.has(name) && (name.startsWith("-") || WILD.test(name));
  const named = new Set(written.filter((name) => !isPattern(name)));
  const open = usable.filter((name) => !named.has(name));
  let found: string[] = [];
  written.forEach((name, place) => {
    if (!isPattern(name)) found.push(name);
    else if (name.startsWith("-")) {
      const out = matcher(name.slice(1));
      if (place === 0) found = [...open];
      found = found.filter((own) => !out(own));
    } else {
      const match = matcher(name);
      const had = new Set(found);
      found.push(...open.filter((own) => !had.has(own) && match(own)));
    }
  });
  return found;
}

/** The longest text that all names begin with. */
function common(names: readonly string[]): string {
  const [first = "", ...others] = names;
  let length = first.length;
  for (const name of others) while (!name.startsWith(first.slice(0, length))) length -= 1;
  return first.slice(0, length);
}

/** Short names and patterns that stand for some of the columns, and for no other of `all`. */
function patterns(chosen: ReadonlySet<string>, all: readonly string[]): string[] {
  const below = (prefix: string, names: readonly string[]): string[] => {
    const own = names.filter((name) => chosen.has(name));
    if (own.length < MIN_GROUP || prefix.length > LONGEST_PREFIX) return own;
    if (prefix !== "" && own.length === names.length && !prefix.startsWith("-") && !WILD.test(prefix)) return [`${common(names)}*`];
    const next = new Map<string, string[]>();
    for (const name of names) {
      const longer = name.slice(0, prefix.length + 1);
      next.set(longer, [...(next.get(longer) ?? []), name]);
    }
    return [...next].flatMap(([longer, group]) => (longer === prefix ? group.filter((name) => chosen.has(name)) : below(longer, group)));
  };
  return below("", all);
}

/** The shortest list of features for the chosen columns; undefined for all of them, which a spec need not name. */
export function shortest(chosen: readonly string[], usable: readonly string[]): string[] | undefined {
  const wanted = new Set(chosen);
  if (usable.every((name) => wanted.has(name))) return undefined;
  const named = patterns(wanted, usable);
  const out = patterns(new Set(usable.filter((name) => !wanted.has(name))), usable).map((name) => `-${name}`);
  const shorter = wanted.size > 0 && named.length > FEW && out.length < named.length && !out.some((name) => usable.includes(name)) ? out : named;
  const means = new Set(expand(shorter, usable));
  return means.size === wanted.size && chosen.every((name) => means.has(name)) ? shorter : [...chosen];
}
