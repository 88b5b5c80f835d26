import { useState } from "react";
import { useText, type Key } from "../i18n";
import type { Catalogue } from "../spec/catalogue";
import { fresh, PALETTE, summaryOf, type Entry } from "../spec/layers";
import type { Column } from "../spec/network";
import { ArgumentForm } from "./ArgumentForm";
import { Button } from "./basics";
import { Icon } from "./icons";
import { NetworkDrawing } from "./NetworkDrawing";

interface Props {
  catalogue: Catalogue | null;
  entries: readonly Entry[];
  columns: readonly Column[];
  /** Output shape and parameter count of each entry, from the server. */
  counted: readonly ({ shape: string; parameters: string } | null)[];
  onChange: (entries: Entry[]) => void;
}

const FIRST: Record<string, readonly string[]> = {
  Dense: ["units", "activation", "kernel_regularizer"],
  LSTM: ["units", "return_sequences", "dropout"],
  GRU: ["units", "return_sequences", "dropout"],
  Conv1D: ["filters", "kernel_size", "strides", "padding", "activation"],
  Conv2D: ["filters", "kernel_size", "strides", "padding", "activation"],
  Embedding: ["input_dim", "output_dim", "mask_zero"],
  BatchNormalization: ["momentum", "epsilon"],
};

const groupKey = (group: (typeof PALETTE)[number]["group"]): Key => `layers.${group}`;

/** The network as a drawing and a list, where layers are added, moved, edited and removed. */
export function LayerBuilder({ catalogue, entries, columns, counted, onChange }: Props) {
  const t = useText();
  const [open, setOpen] = useState<number | null>(null);
  const chosen = open !== null && open < entries.length ? open : null;
  const move = (from: number, to: number) => {
    const next = [...entries];
    const [moved] = next.splice(from, 1);
    if (moved) next.splice(to, 0, moved);
    onChange(next);
    setOpen(to);
  };
  return (
    <div className="stack">
      <NetworkDrawing
        columns={columns}
        label={t("network.drawing", { layers: columns.map((column) => `${column.title} ${column.units ?? column.note}`).join(" → ") })}
        chosen={chosen}
        onChoose={(index) => setOpen(index === chosen ? null : index)}
      />
      <ol className="layers">
        {entries.map((entry, index) => (
          <li key={index} className={chosen === index ? "open" : ""}>
            <div className="row tight layer-line">
              <button type="button" className="layer-name" aria-expanded={chosen === index} onClick={() => setOpen(chosen === index ? null : index)}>
                <strong>{entry.cls}</strong> <span className="muted">{summaryOf(entry)}</span>
              </button>
              <span className="small faint num nowrap">{counted[index] ? `${counted[index].shape} · ${counted[index].parameters}` : ""}</span>
              <Button small icon tone="quiet" label={t("layers.up", { n: index + 1 })} disabled={index === 0} onPress={() => move(index, index - 1)}>
                <Icon name="up" />
              </Button>
              <Button small icon tone="quiet" label={t("layers.down", { n: index + 1 })} disabled={index === entries.length - 1} onPress={() => move(index, index + 1)}>
                <Icon name="down" />
              </Button>
              <Button
                small
                icon
                tone="quiet"
                label={t("layers.remove", { n: index + 1 })}
                onPress={() => {
                  onChange(entries.filter((_, at) => at !== index));
                  setOpen(null);
                }}
              >
                <Icon name="trash" />
              </Button>
            </div>
            {chosen === index && (
              <LayerForm catalogue={catalogue} entry={entry} onChange={(next) => onChange(entries.map((one, at) => (at === index ? next : one)))} />
            )}
          </li>
        ))}
      </ol>
      {entries.length === 0 && <p className="muted">{t("network.perceptron")}</p>}
      <div className="row tight">
        <Button small onPress={() => add("Dense")}>
          <Icon name="plus" /> Dense
        </Button>
        <Button small onPress={() => add("Dropout")}>
          <Icon name="plus" /> Dropout
        </Button>
        <select
          className="select small palette"
          aria-label={t("layers.add")}
          value=""
          onChange={(event) => {
            if (event.target.value) add(event.target.value);
          }}
        >
          <option value="">{t("layers.add")}</option>
          {PALETTE.map((group) => (
            <optgroup key={group.group} label={t(groupKey(group.group))}>
              {group.names.map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </optgroup>
          ))}
        </select>
      </div>
    </div>
  );

  function add(cls: string): void {
    const place = chosen === null ? entries.length : chosen + 1;
    onChange([...entries.slice(0, place), fresh(cls), ...entries.slice(place)]);
    setOpen(place);
  }
}

function LayerForm({ catalogue, entry, onChange }: { catalogue: Catalogue | null; entry: Entry; onChange: (entry: Entry) => void }) {
  const info = catalogue?.class("Layer", entry.cls);
  if (!catalogue || !info) return null;
  const first = FIRST[entry.cls];
  return (
    <div className="layer-form">
      {info.description && <p className="small faint">{info.description}</p>}
      <ArgumentForm catalogue={catalogue} info={info} args={entry.args} onChange={(args) => onChange({ ...entry, args })} {...(first && { first })} />
    </div>
  );
}
