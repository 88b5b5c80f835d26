import { useMemo, useState } from "react";
import type { Column } from "../api/types";
import { number } from "../format";
import { useText } from "../i18n";
import { matcher } from "../spec/columns";
import { Button } from "./basics";
import { kindKey } from "./DatasetColumns";

const MOST_SHOWN = 120;
const FEW = 12; // columns that need no search

interface Props {
  columns: readonly Column[];
  chosen: ReadonlySet<string>;
  onChange: (chosen: string[]) => void;
}

/** Chooses columns: one by one, all, none, or those that a text or a pattern finds. */
export function ColumnPicker({ columns, chosen, onChange }: Props) {
  const t = useText();
  const [text, setText] = useState("");
  const found = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    if (wanted === "") return columns;
    const match = /[*?]/.test(wanted) ? matcher(wanted) : (name: string) => name.includes(wanted);
    return columns.filter((column) => match(column.name.toLowerCase()));
  }, [columns, text]);
  const set = (names: ReadonlySet<string>, on: boolean) =>
    onChange(columns.map((column) => column.name).filter((name) => (names.has(name) ? on : chosen.has(name))));
  const all = new Set(found.map((column) => column.name));
  return (
    <div className="stack tight">
      {columns.length > FEW && (
        <div className="row tight">
          <input
            type="search"
            className="input grow"
            aria-label={t("features.search")}
            placeholder={t("features.search.hint")}
            value={text}
            onChange={(event) => setText(event.target.value)}
          />
          <Button small disabled={found.length === 0} onPress={() => set(all, true)}>
            {text.trim() === "" ? t("features.all") : t("features.add", { n: number(found.length) })}
          </Button>
          <Button small disabled={found.length === 0} onPress={() => set(all, false)}>
            {text.trim() === "" ? t("features.none") : t("features.remove", { n: number(found.length) })}
          </Button>
        </div>
      )}
      <div className="chips">
        {found.slice(0, MOST_SHOWN).map((column) => (
          <label key={column.name} className="chip">
            <input type="checkbox" checked={chosen.has(column.name)} onChange={(event) => set(new Set([column.name]), event.target.checked)} />
            <span className="clip">{column.name}</span>
            <span className="faint small">{t(kindKey(column.kind))}</span>
          </label>
        ))}
      </div>
      {found.length > MOST_SHOWN && <p className="small muted">{t("features.more", { n: number(found.length - MOST_SHOWN) })}</p>}
      {found.length === 0 && <p className="small muted">{t("features.nothing")}</p>}
    </div>
  );
}
