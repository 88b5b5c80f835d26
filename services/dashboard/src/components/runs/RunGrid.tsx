import { useQueries } from "@tanstack/react-query";
import { memo, useCallback, useEffect, useMemo, useRef, useState, type MouseEvent, type ReactNode, type RefObject } from "react";
import { isLive, runsAt, type ListQuery } from "../../api/runs";
import type { ListedRun, RunPage } from "../../api/types";
import { useText } from "../../i18n";
import { metricName } from "../../i18n/metrics";
import { ErrorView, Loading } from "../basics";
import { Icon } from "../icons";
import { headline, shortId } from "../RunBits";
import { Cell, COLUMNS, type ColumnId } from "./columns";

export const PAGE = 100;
const ROW = 50; // px, as in the style sheet
const BEYOND = 8; // rows drawn above and below what is seen

export interface Sorting {
  key: string;
  descending: boolean;
}

interface Props {
  query: ListQuery;
  columns: readonly ColumnId[];
  sorting: Sorting;
  metric: string | null;
  chosen: ReadonlySet<string>;
  /** `metric`: the one by which is sorted, where the key is that. */
  onSort: (key: string, metric?: string | null) => void;
  onMetric: (metric: string | null) => void;
  onChoose: (ids: readonly string[], on: boolean) => void;
  onTag: (tag: string) => void;
  onEdit: (run: ListedRun) => void;
  total: number | null;
  /** What is shown instead of no rows. */
  empty: ReactNode;
}

/** Which rows a scrolled box shows, by their places; it starts at the top again when `key` changes. */
function useWindow(key: string): { host: RefObject<HTMLDivElement | null>; from: number; to: number } {
  const host = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState({ top: 0, height: 900 });
  useEffect(() => {
    const box = host.current;
    if (!box) return undefined;
    const look = () => setSeen((old) => (old.top === box.scrollTop && old.height === box.clientHeight ? old : { top: box.scrollTop, height: box.clientHeight }));
    box.addEventListener("scroll", look, { passive: true });
    const watch = new ResizeObserver(look);
    watch.observe(box);
    return () => {
      box.removeEventListener("scroll", look);
      watch.disconnect();
    };
  }, []);
  useEffect(() => {
    host.current?.scrollTo(0, 0);
  }, [key]);
  return { host, from: Math.max(0, Math.floor(seen.top / ROW) - BEYOND), to: Math.ceil((seen.top + seen.height) / ROW) + BEYOND };
}

/** A table of all runs that match, of which the rows in sight are fetched and drawn. */
export function RunGrid({ query, columns, sorting, metric, chosen, onSort, onMetric, onChoose, onTag, onEdit, total, empty }: Props) {
  const t = useText();
  const { host, from, to } = useWindow(JSON.stringify(query));
  const pages = Array.from({ length: Math.floor(to / PAGE) - Math.floor(from / PAGE) + 1 }, (_, at) => Math.floor(from / PAGE) + at);
  const wanted = [...new Set([0, ...pages])].filter((page) => page === 0 || page * PAGE < (total ?? 0));
  const answers = useQueries({
    queries: wanted.map((page) => ({
      ...runsAt(query, page, PAGE),
      ...(page === 0 && { placeholderData: (before: RunPage | undefined) => before }),
      refetchInterval: (one: { state: { data?: { items: ListedRun[] } | undefined } }) => (one.state.data?.items.some(isLive) ? 1500 : 15_000),
    })),
  });
  const at = new Map<number, ListedRun>();
  answers.forEach((answer, index) => answer.data?.items.forEach((run, place) => at.set((wanted[index] ?? 0) * PAGE + place, run)));
  const error = answers.find((answer) => answer.error)?.error;
  const loaded = [...at.values()];
  const names = [...new Set(loaded.flatMap((run) => Object.keys(run.scores)))].sort();
  const usual = mostCommon(loaded.flatMap((run) => headline(run.scores) ?? []));
  const shown = useMemo(() => COLUMNS.filter((one) => columns.includes(one.id)), [columns]);
  const count = total ?? 0;
  const [first, last] = [Math.min(from, Math.max(0, count - 1)), Math.min(to, count - 1)];
  const rows = Array.from({ length: last - first + 1 }, (_, place) => first + place);
  const marks = useMarks(at, chosen, onChoose);
  const width = shown.reduce((sum, one) => sum + one.width, 40 + 44);
  return (
    <div className="run-grid" ref={host} tabIndex={0} role="group" aria-label={t("nav.runs")}>
      {error && <div className="body"><ErrorView error={error} /></div>}
      {!error && total === null && (
        <div className="body">
          <Loading />
        </div>
      )}
      {total === 0 && empty}
      {count > 0 && (
        <table className="table" aria-rowcount={count + 1} style={{ minWidth: width }}>
          <colgroup>
            <col style={{ width: 40 }} />
            {shown.map((one) => (
              <col key={one.id} style={{ width: one.width }} />
            ))}
            <col style={{ width: 44 }} />
          </colgroup>
          <thead>
            <tr aria-rowindex={1}>
              <th scope="col">
                <input
                  type="checkbox"
                  aria-label={t("runs.choose.shown")}
                  checked={loaded.length > 0 && loaded.every((run) => chosen.has(run.id))}
                  onChange={(event) => onChoose(loaded.map((run) => run.id), event.target.checked)}
                />
              </th>
              {shown.map((one) => (
                <th key={one.id} scope="col" className={one.numeric ? "num" : ""} aria-sort={one.sort === sorting.key ? (sorting.descending ? "descending" : "ascending") : undefined}>
                  {one.id === "metric" ? (
                    <span className="row tight nowrap-row">
                      <select className="select small auto" aria-label={t("runs.metric")} value={metric ?? ""} onChange={(event) => onMetric(event.target.value || null)}>
                        <option value="">{t("runs.metric.usual")}</option>
                        {[...new Set([...names, ...(metric ? [metric] : [])])].map((name) => (
                          <option key={name} value={name}>
                            {metricName(name)}
                          </option>
                        ))}
                      </select>
                      <SortButton title={metric ?? t("runs.metric.usual")} hidden on={sorting.key === "metric"} descending={sorting.descending} onPress={() => onSort("metric", metric ?? usual)} />
                    </span>
                  ) : one.sort ? (
                    <SortButton title={t(one.title)} on={one.sort === sorting.key} descending={sorting.descending} onPress={() => onSort(one.sort ?? "")} />
                  ) : (
                    t(one.title)
                  )}
                </th>
              ))}
              <th scope="col">
                <span className="visually-hidden">{t("actions")}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {first > 0 && <tr className="gap" style={{ height: first * ROW }} aria-hidden="true" />}
            {rows.map((place) => {
              const run = at.get(place);
              return (
                <tr key={place} aria-rowindex={place + 2} className={run && chosen.has(run.id) ? "chosen" : ""}>
                  {run ? <Row run={run} place={place} shown={shown} metric={metric} onTag={onTag} onEdit={onEdit} mark={marks} chosen={chosen.has(run.id)} /> : <td colSpan={shown.length + 2} />}
                </tr>
              );
            })}
            {count - 1 > last && <tr className="gap" style={{ height: (count - 1 - last) * ROW }} aria-hidden="true" />}
          </tbody>
        </table>
      )}
    </div>
  );
}

interface RowProps {
  run: ListedRun;
  place: number;
  shown: typeof COLUMNS;
  metric: string | null;
  chosen: boolean;
  mark: (place: number, event: MouseEvent<HTMLInputElement>) => void;
  onTag: (tag: string) => void;
  onEdit: (run: ListedRun) => void;
}

/** Drawn anew only where something of it has changed: scrolling moves the others as they are. */
const Row = memo(function Row({ run, place, shown, metric, chosen, mark, onTag, onEdit }: RowProps) {
  const t = useText();
  const name = run.name ?? shortId(run.id);
  return (
    <>
      <td>
        <input type="checkbox" aria-label={t("runs.choose", { run: name })} checked={chosen} onChange={() => undefined} onClick={(event) => mark(place, event)} />
      </td>
      {shown.map(({ id, numeric }) => (
        <td key={id} className={numeric ? "num" : ""}>
          <Cell run={run} id={id} metric={metric} onTag={onTag} />
        </td>
      ))}
      <td>
        <button type="button" className="button quiet small icon" aria-label={`${t("runs.edit")}: ${name}`} onClick={() => onEdit(run)}>
          <Icon name="pencil" />
        </button>
      </td>
    </>
  );
});

function SortButton({ title, on, descending, hidden, onPress }: { title: string; on: boolean; descending: boolean; hidden?: boolean; onPress: () => void }) {
  const t = useText();
  return (
    <button type="button" className={on ? "sort on" : "sort"} aria-label={t("runs.sort", { column: title })} onClick={onPress}>
      {hidden ? "" : title} <span aria-hidden="true">{on ? (descending ? "▼" : "▲") : "↕"}</span>
    </button>
  );
}

/** Chooses one row, or with Shift all rows from the last one that was chosen. */
function useMarks(at: ReadonlyMap<number, ListedRun>, chosen: ReadonlySet<string>, onChoose: Props["onChoose"]) {
  const before = useRef<number | null>(null);
  const now = useRef({ at, chosen, onChoose });
  useEffect(() => {
    now.current = { at, chosen, onChoose };
  });
  return useCallback((place: number, event: MouseEvent) => {
    const { at, chosen, onChoose } = now.current;
    const run = at.get(place);
    if (!run) return;
    const from = event.shiftKey && before.current !== null ? before.current : place;
    const ids = Array.from({ length: Math.abs(place - from) + 1 }, (_, step) => at.get(Math.min(place, from) + step)?.id).filter((id) => id !== undefined);
    before.current = place;
    onChoose(ids, !chosen.has(run.id));
  }, []);
}

function mostCommon(names: readonly string[]): string | null {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}
