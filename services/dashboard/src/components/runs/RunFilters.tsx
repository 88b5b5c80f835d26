import { useEffect, useState } from "react";
import { useTags } from "../../api/runs";
import { useText, type Key } from "../../i18n";
import { Button, Check, Select } from "../basics";
import { Menu } from "../Menu";
import { COLUMNS, type ColumnId } from "./columns";
import { useViews } from "./views";

const STATES = ["", "queued", "running", "succeeded", "failed", "cancelled"] as const;
const PAUSE = 250; // ms without a keystroke, after which is searched

interface Props {
  query: URLSearchParams;
  set: (changes: Record<string, string>) => void;
  onView: (query: string) => void;
  columns: readonly ColumnId[];
}

/** Search, filters, columns and saved views; all of it is in the address. */
export function RunFilters({ query, set, onView, columns }: Props) {
  const t = useText();
  const tags = useTags();
  const tag = query.get("tag") ?? "";
  return (
    <div className="row run-filters">
      <Search value={query.get("q") ?? ""} onChange={(q) => set({ q })} />
      <Select
        label={t("state")}
        hideLabel
        value={query.get("state") ?? ""}
        choices={STATES.map((value) => ({ value: value as string, label: value === "" ? `${t("state")}: ${t("all")}` : t(`state.${value}` as Key) }))}
        onChange={(state) => set({ state })}
      />
      <Select
        label={t("runs.tags")}
        hideLabel
        value={tag}
        choices={[{ value: "", label: t("runs.tag.any") }, ...new Set([...(tags.data ?? []), ...(tag ? [tag] : [])])]}
        onChange={(next) => set({ tag: next })}
      />
      <Check label={t("playground.show")} checked={query.get("playground") === "true"} onChange={(on) => set({ playground: on ? "true" : "" })} />
      <span className="grow" />
      <Menu title={t("runs.columns")}>
        <ul className="menu-list">
          {COLUMNS.map((one) => (
            <li key={one.id}>
              <Check
                label={t(one.title)}
                checked={columns.includes(one.id)}
                onChange={(on) => set({ columns: COLUMNS.map((own) => own.id).filter((own) => (own === one.id ? on : columns.includes(own))).join(",") })}
              />
            </li>
          ))}
        </ul>
      </Menu>
      <Views query={withColumns(query, columns)} onView={onView} />
    </div>
  );
}

/** A view has its columns, whatever this browser shows otherwise. */
function withColumns(query: URLSearchParams, columns: readonly ColumnId[]): URLSearchParams {
  const whole = new URLSearchParams(query);
  whole.set("columns", columns.join(","));
  return whole;
}

function Search({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const t = useText();
  const [typed, setTyped] = useState<string | null>(null);
  useEffect(() => {
    if (typed === null || typed === value) return undefined;
    const timer = setTimeout(() => onChange(typed), PAUSE);
    return () => clearTimeout(timer);
    // eslint-disable-next-line react-hooks/exhaustive-deps -- a new function each time
  }, [typed, value]);
  return (
    <input
      type="search"
      className="input run-search"
      aria-label={t("runs.search")}
      placeholder={t("runs.search.hint")}
      maxLength={200}
      value={typed ?? value}
      onChange={(event) => setTyped(event.target.value)}
      onBlur={() => setTyped((now) => (now === value ? null : now))}
    />
  );
}

function Views({ query, onView }: { query: URLSearchParams; onView: (query: string) => void }) {
  const t = useText();
  return (
    <Menu title={t("runs.views")}>
      {(close) => (
        <ViewList
          query={query}
          onView={(view) => {
            onView(view);
            close();
          }}
        />
      )}
    </Menu>
  );
}

function ViewList({ query, onView }: { query: URLSearchParams; onView: (query: string) => void }) {
  const t = useText();
  const { views, save, remove } = useViews();
  const [name, setName] = useState("");
  return (
    <>
      <ul className="menu-list">
        <li>
          <button type="button" className="linklike" onClick={() => onView("")}>
            {t("runs.views.default")}
          </button>
        </li>
        {views.map((view) => (
          <li key={view.name} className="row between nowrap-row">
            <button type="button" className="linklike" onClick={() => onView(view.query)}>
              {view.name}
            </button>
            <Button small tone="quiet" icon label={t("runs.views.remove", { name: view.name })} onPress={() => remove(view.name)}>
              ×
            </Button>
          </li>
        ))}
      </ul>
      {views.length === 0 && <p className="small muted">{t("runs.views.none")}</p>}
      <form
        className="row nowrap-row"
        onSubmit={(event) => {
          event.preventDefault();
          if (name.trim()) save({ name: name.trim(), query: query.toString() });
          setName("");
        }}
      >
        <input className="input small" aria-label={t("runs.views.name")} placeholder={t("runs.views.name")} maxLength={60} value={name} onChange={(event) => setName(event.target.value)} />
        <Button small type="submit" disabled={name.trim() === ""}>
          {t("runs.views.save")}
        </Button>
      </form>
    </>
  );
}
