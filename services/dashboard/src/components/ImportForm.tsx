import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useNavigate } from "react-router";
import { importTable, isImportRun, useConnections, type Source } from "../api/datasets";
import { useText } from "../i18n";
import { Button, ErrorView, Field, Notice, Select } from "./basics";

const KINDS = ["sql", "files", "delta", "https"] as const;
type SourceKind = (typeof KINDS)[number];

/** Imports a table from its source. */
export function ImportForm() {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const [open, setOpen] = useState(false);
  const [kind, setKind] = useState<SourceKind>("sql");
  const [name, setName] = useState("");
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const known = useConnections(open).data ?? [];
  const fitting = known.filter((one) => one.sources.some((source) => (kind === "files" ? ["s3", "gs", "az"].includes(source) : source === kind)));
  const connection = fitting.find((one) => one.name === chosen) ?? fitting[0];
  const needs = kind !== "https";

  const start = () => {
    setBusy(true);
    setError(null);
    importTable(name.trim(), sourceOf(kind, connection, text.trim()))
      .then((made) => {
        if (isImportRun(made)) return go(`/runs/${encodeURIComponent(made.id)}`);
        void queries.invalidateQueries({ queryKey: ["datasets"] });
        return go(`/datasets/${encodeURIComponent(`${made.name}@${made.version}`)}`);
      })
      .catch(setError)
      .finally(() => setBusy(false));
  };
  const label = kind === "sql" ? t("import.query") : kind === "https" ? t("import.url") : t("import.path");
  const hint = kind === "sql" ? t("import.query.hint") : kind === "files" ? t("import.path.hint") : undefined;
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="small">{t("import.title")}</summary>
      <div className="stack tight">
        <div className="fields">
          <Select
            label={t("import.kind")}
            value={kind}
            choices={KINDS.map((value) => ({ value: value as string, label: t(`import.kind.${value}`) }))}
            onChange={(value) => setKind(value as SourceKind)}
          />
          {needs && fitting.length > 0 && (
            <Select label={t("import.connection")} value={connection?.name ?? ""} choices={fitting.map((one) => one.name)} onChange={setChosen} />
          )}
          <Field label={t("name")}>
            {(id) => <input id={id} className="input" value={name} onChange={(event) => setName(event.target.value)} />}
          </Field>
        </div>
        {needs && fitting.length === 0 && <Notice>{t("import.connection.none")}</Notice>}
        <Field label={label} {...(hint && { hint })}>
          {(id) =>
            kind === "sql" ? (
              <textarea id={id} className="input" rows={4} value={text} onChange={(event) => setText(event.target.value)} />
            ) : (
              <input id={id} className="input" value={text} onChange={(event) => setText(event.target.value)} />
            )
          }
        </Field>
        {error !== null && <ErrorView error={error} />}
        <div className="row">
          <Button tone="primary" disabled={busy || !name.trim() || !text.trim() || (needs && !connection)} onPress={start}>
            {busy ? t("import.busy") : t("import.start")}
          </Button>
        </div>
      </div>
    </details>
  );
}

function sourceOf(kind: SourceKind, connection: { name: string; kind: string } | undefined, text: string): Source {
  if (kind === "https") return { https: { url: text } };
  const named = connection?.name ?? "";
  if (kind === "sql") return { sql: { connection: named, query: text } };
  if (kind === "delta") return { delta: { connection: named, path: text } };
  return { [connection?.kind ?? "s3"]: { connection: named, path: text } } as Source;
}
