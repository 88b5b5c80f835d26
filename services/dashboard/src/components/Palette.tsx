import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Dialog, Modal, ModalOverlay } from "react-aria-components";
import { useNavigate } from "react-router";
import { get } from "../api/client";
import type { DatasetPage, ModelPage, RunPage } from "../api/types";
import { setLanguage, useLanguage, useText, type Key } from "../i18n";
import { setTheme } from "../state/preferences";
import { Icon } from "./icons";
import { shortId } from "./RunBits";

/** Pages by the key that follows `g`. */
const PAGES: readonly { key: string; to: string; title: Key }[] = [
  { key: "h", to: "/", title: "palette.home" },
  { key: "d", to: "/datasets", title: "nav.datasets" },
  { key: "n", to: "/new", title: "nav.new" },
  { key: "r", to: "/runs", title: "nav.runs" },
  { key: "m", to: "/models", title: "nav.models" },
  { key: "p", to: "/playground", title: "nav.playground" },
  { key: "l", to: "/lessons", title: "nav.lessons" },
  { key: "s", to: "/system", title: "nav.system" },
];
const SEQUENCE_MS = 1200; // between `g` and the next key

interface Entry {
  id: string;
  kind: Key;
  text: string;
  note?: string;
  act: () => void;
}

const isTyping = (target: EventTarget | null): boolean => target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

/** Goes anywhere by name (Ctrl or ⌘ K), and holds the shortcuts: `g` and a page's letter, `/` for a page's search. */
export function Palette() {
  const t = useText();
  const go = useNavigate();
  const [open, setOpen] = useState(false);
  useEffect(() => {
    let since = 0; // when `g` was pressed
    const press = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        setOpen((old) => !old);
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      const page = event.timeStamp - since < SEQUENCE_MS ? PAGES.find((one) => one.key === event.key) : undefined;
      since = event.key === "g" ? event.timeStamp : 0;
      if (page) void go(page.to);
      else if (event.key === "?") setOpen(true);
      else if (event.key === "/") {
        const search = document.querySelector<HTMLElement>("main input[type=search]");
        if (search) {
          event.preventDefault();
          search.focus();
        }
      }
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [go]);
  return (
    <>
      <button type="button" className="palette-button" onClick={() => setOpen(true)}>
        <Icon name="search" />
        <span>{t("palette.open")}</span> <kbd>Ctrl K</kbd>
      </button>
      <ModalOverlay className="overlay" isOpen={open} isDismissable onOpenChange={setOpen}>
        <Modal className="modal">
          <Dialog aria-label={t("palette.title")}>
            <Entries onDone={() => setOpen(false)} />
          </Dialog>
        </Modal>
      </ModalOverlay>
    </>
  );
}

function Entries({ onDone }: { onDone: () => void }) {
  const t = useText();
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const entries = useEntries(text);
  const place = Math.min(at, Math.max(0, entries.length - 1));
  const choose = (entry: Entry | undefined) => {
    if (!entry) return;
    onDone();
    entry.act();
  };
  return (
    <div
      className="stack tight"
      onKeyDown={(event) => {
        if (event.key === "ArrowDown" || event.key === "ArrowUp") {
          event.preventDefault();
          setAt((place + (event.key === "ArrowDown" ? 1 : entries.length - 1)) % Math.max(1, entries.length));
        } else if (event.key === "Enter") {
          event.preventDefault();
          choose(entries[place]);
        }
      }}
    >
      <input
        className="input"
        autoFocus
        role="combobox"
        aria-expanded
        aria-controls="palette-entries"
        aria-activedescendant={entries[place] ? `palette-${entries[place].id}` : undefined}
        aria-label={t("palette.title")}
        placeholder={t("palette.hint")}
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          setAt(0);
        }}
      />
      <ul id="palette-entries" className="palette-list" role="listbox" aria-label={t("palette.title")}>
        {entries.map((entry, index) => (
          <li key={entry.id} id={`palette-${entry.id}`} role="option" aria-selected={index === place} onClick={() => choose(entry)} onPointerEnter={() => setAt(index)}>
            <span className="faint small">{t(entry.kind)}</span> <span className="clip grow">{entry.text}</span>
            {entry.note && <kbd>{entry.note}</kbd>}
          </li>
        ))}
      </ul>
      {entries.length === 0 && <p className="muted small">{t("palette.none")}</p>}
      <p className="small faint">{t("palette.keys")}</p>
    </div>
  );
}

/** What the text finds: pages and settings at once; runs, tables and models from the server. */
function useEntries(text: string): Entry[] {
  const t = useText();
  const go = useNavigate();
  const language = useLanguage();
  const words = text.trim().toLowerCase();
  const found = useQuery({
    queryKey: ["palette", words],
    queryFn: async ({ signal }) => {
      const [runs, tables, models] = await Promise.all([
        get<RunPage>("/api/v1/runs", { q: words, limit: 6, playground: "false" }, signal),
        get<DatasetPage>("/api/v1/datasets", { limit: 200, playground: "false" }, signal),
        get<ModelPage>("/api/v1/models", { limit: 200 }, signal),
      ]);
      return { runs: runs.items, tables: tables.items, models: models.items };
    },
    staleTime: 10_000,
    placeholderData: (before) => before,
  });
  const has = (name: string) => name.toLowerCase().includes(words);
  const to = (address: string) => () => void go(address);
  const settings: Entry[] = [
    { id: "light", kind: "theme", text: t("theme.light"), act: () => setTheme("light") },
    { id: "dark", kind: "theme", text: t("theme.dark"), act: () => setTheme("dark") },
    { id: "language", kind: "language", text: language === "en" ? "繁體中文" : "English", act: () => setLanguage(language === "en" ? "zh-Hant" : "en") },
  ];
  return [
    ...PAGES.map((page): Entry => ({ id: `page${page.key}`, kind: "palette.page", text: t(page.title), note: `g ${page.key}`, act: to(page.to) })).filter((one) => has(one.text)),
    ...(words === "" ? [] : (found.data?.tables ?? []).filter((one) => has(one.name)).slice(0, 6).map((one): Entry => ({ id: one.id, kind: "dataset", text: `${one.name}@${one.version}`, act: to(`/datasets/${encodeURIComponent(`${one.name}@${one.version}`)}`) }))),
    ...(words === "" ? [] : (found.data?.models ?? []).filter((one) => has(one.name)).slice(0, 6).map((one): Entry => ({ id: `model-${one.name}`, kind: "model", text: one.name, act: to(`/models/${encodeURIComponent(one.name)}`) }))),
    ...(found.isPlaceholderData ? [] : (found.data?.runs ?? [])).map((run): Entry => ({ id: run.id, kind: "run", text: `${run.name ?? shortId(run.id)} · ${run.dataset} · ${run.targets.join(", ")}`, act: to(`/runs/${encodeURIComponent(run.id)}`) })),
    ...settings.filter((one) => has(one.text) || (words !== "" && has(t(one.kind)))),
  ];
}
