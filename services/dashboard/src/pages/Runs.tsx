import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { Link, useLocation, useSearchParams } from "react-router";
import { allIds, runsAt, type ListQuery } from "../api/runs";
import type { ListedRun } from "../api/types";
import { modeOf } from "../charts/curves";
import { Button, Empty } from "../components/basics";
import { isColumn, USUAL, type ColumnId } from "../components/runs/columns";
import { RunAbout } from "../components/runs/RunAbout";
import { RunBulk } from "../components/runs/RunBulk";
import { RunFilters } from "../components/runs/RunFilters";
import { PAGE, RunGrid } from "../components/runs/RunGrid";
import { showError } from "../components/toasts";
import { number } from "../format";
import { useText } from "../i18n";
import { rememberList } from "../state/lastList";
import { readPreference, writePreference } from "../state/preferences";

const FILTERS = ["q", "state", "tag", "model", "dataset"] as const;
const KEPT_COLUMNS = "runs.columns"; // of this browser, where the address names none
const CHIPS = ["tag", "model", "dataset"] as const;

/** Runs as a table to work in. Everything but the selection is in the address. */
export default function Runs() {
  const t = useText();
  const [address, setAddress] = useSearchParams();
  const { pathname, search } = useLocation();
  useEffect(() => rememberList(search), [search]);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [edited, setEdited] = useState<ListedRun | null>(null);
  const set = (changes: Record<string, string>) => {
    // Do not navigate back to a page that the visitor is leaving.
    if (window.location.pathname !== pathname) return;
    // Start from the address itself, so two changes in one tick are both kept.
    const next = new URLSearchParams(window.location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value === "") next.delete(name);
      else next.set(name, value);
    }
    setAddress(next, { replace: true });
  };
  const metric = address.get("metric");
  const sorting = sortingOf(address);
  const query = queryOf(address);
  const total = useQuery({ ...runsAt(query, 0, PAGE), placeholderData: (before) => before }).data?.total ?? null;
  const named = address.get("columns") ?? readPreference(KEPT_COLUMNS) ?? "";
  const columns = useMemo((): readonly ColumnId[] => {
    const chosenColumns = named.split(",").filter(isColumn);
    return chosenColumns.length > 0 ? chosenColumns : USUAL;
  }, [named]);
  const choose = (ids: readonly string[], on: boolean) =>
    setChosen((old) => {
      const next = new Set(old);
      for (const id of ids) if (on) next.add(id); else next.delete(id);
      return next;
    });
  const sort = (key: string, by: string | null = null) => {
    const usual = isUsuallyDescending(key, by);
    const descending = sorting.key === key ? !sorting.descending : usual;
    set({ sort: key === "created" && descending ? "" : key, order: descending === usual ? "" : descending ? "down" : "up", ...(by !== null && { metric: by }) });
  };
  const filtered = FILTERS.some((name) => address.get(name));
  return (
    <div className="page wide">
      <div className="page-head">
        <div className="row">
          <h1>{t("nav.runs")}</h1>
          {total !== null && <span className="muted num">{t("runs.total", { n: number(total) })}</span>}
          {CHIPS.filter((name) => address.get(name)).map((name) => (
            <button key={name} type="button" className="tag" aria-label={t("runs.filter", { name: address.get(name) ?? "" })} onClick={() => set({ [name]: "" })}>
              {t(name === "tag" ? "runs.tags" : name)}: {address.get(name)} ×
            </button>
          ))}
        </div>
        <Link className="button primary" to="/new">
          {t("nav.new")}
        </Link>
      </div>
      <section className="card">
        <RunFilters
          query={address}
          set={(changes) => {
            if (changes.columns !== undefined) writePreference(KEPT_COLUMNS, changes.columns);
            set(changes);
          }}
          columns={columns}
          onView={(view) => {
            if (view === "") writePreference(KEPT_COLUMNS, "");
            setAddress(new URLSearchParams(view), { replace: true });
            setChosen(new Set());
          }}
        />
        {chosen.size > 0 && <RunBulk chosen={[...chosen]} total={total ?? 0} onNone={() => setChosen(new Set())} onAll={() => void allIds(query).then((ids) => setChosen(new Set(ids)), showError)} />}
        <RunGrid
          query={query}
          columns={columns}
          sorting={sorting}
          metric={metric}
          chosen={chosen}
          onSort={sort}
          onMetric={(next) => set({ metric: next ?? "", ...(next === null && sorting.key === "metric" && { sort: "", order: "" }) })}
          onChoose={choose}
          onTag={(tag) => set({ tag })}
          onEdit={setEdited}
          total={total}
          empty={
            filtered ? (
              <Empty title={t("runs.nomatch")}>
                <p>{t("runs.nomatch.text")}</p>
                <Button onPress={() => set(Object.fromEntries(FILTERS.map((name) => [name, ""])))}>{t("runs.clear")}</Button>
              </Empty>
            ) : (
              <Empty title={t("runs.none")}>
                <Link className="button primary" to="/new">
                  {t("nav.new")}
                </Link>
              </Empty>
            )
          }
        />
      </section>
      {edited && <RunAbout run={{ id: edited.id, name: edited.name ?? null, tags: edited.tags ?? [], notes: edited.notes ?? null }} onClose={() => setEdited(null)} />}
    </div>
  );
}

const NEWEST_OR_LONGEST = ["created", "finished", "duration"];
const isUsuallyDescending = (key: string, metric: string | null): boolean => NEWEST_OR_LONGEST.includes(key) || (key === "metric" && modeOf(metric ?? "loss") === "max");

function sortingOf(address: URLSearchParams): { key: string; descending: boolean } {
  const key = address.get("sort") ?? "created";
  const order = address.get("order");
  const usual = isUsuallyDescending(key, address.get("metric"));
  return { key, descending: order === null ? usual : order === "down" };
}

/** What is asked of the server. */
function queryOf(address: URLSearchParams): ListQuery {
  const { key, descending } = sortingOf(address);
  const metric = address.get("metric");
  const known = key === "metric" && metric === null ? "created" : key;
  return {
    playground: address.get("playground") === "true" ? "true" : "false",
    sort: known,
    descending: String(descending),
    ...(known === "metric" && metric !== null && { metric }),
    ...Object.fromEntries(FILTERS.flatMap((name) => (address.get(name) ? [[name, address.get(name) ?? ""]] : []))),
  };
}
