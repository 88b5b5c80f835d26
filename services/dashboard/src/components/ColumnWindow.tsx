import { useState, type ReactNode } from "react";
import { number } from "../format";
import { useText } from "../i18n";
import { Button } from "./basics";

/** Columns that are drawn at once: of a table of thousands, more would keep the page busy for seconds. */
export const AT_ONCE = 100;

interface Windowed<T> {
  /** Those drawn, with their places in the table. */
  shown: { column: T; at: number }[];
  /** What searches and pages; null where all columns are drawn. */
  bar: ReactNode;
}

/** A part of a wide table's columns, which a name or a page chooses. */
export function useColumnWindow<T>(columns: readonly T[], nameOf: (column: T) => string): Windowed<T> {
  const t = useText();
  const [query, setQuery] = useState("");
  const [start, setStart] = useState(0);
  const all = columns.map((column, at) => ({ column, at }));
  if (all.length <= AT_ONCE) return { shown: all, bar: null };
  const wanted = query.trim().toLowerCase();
  const matching = wanted === "" ? all : all.filter(({ column }) => nameOf(column).toLowerCase().includes(wanted));
  const from = start < matching.length ? start : 0;
  const to = Math.min(matching.length, from + AT_ONCE);
  const bar = (
    <div className="body row">
      <input
        type="search"
        className="input small"
        aria-label={t("columns.search")}
        placeholder={t("columns.search")}
        value={query}
        onChange={(event) => {
          setQuery(event.target.value);
          setStart(0);
        }}
      />
      <Button small disabled={from === 0} onPress={() => setStart(Math.max(0, from - AT_ONCE))}>
        {t("columns.before")}
      </Button>
      <Button small disabled={to >= matching.length} onPress={() => setStart(to)}>
        {t("columns.next")}
      </Button>
      <span className="small muted" role="status">
        {matching.length === 0 ? t("columns.none") : t("columns.range", { from: number(from + 1), to: number(to), all: number(matching.length) })}
      </span>
    </div>
  );
  return { shown: matching.slice(from, to), bar };
}
