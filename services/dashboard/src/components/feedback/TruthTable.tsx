import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { postTable, type Sent } from "../../api/feedback";
import type { Manifest } from "../../api/models";
import { number } from "../../format";
import { useText } from "../../i18n";
import { readTruths, type TruthTable as Table } from "../../spec/truths";
import { Button, Field, Notice } from "../basics";
import { FormDialog } from "../dialogs";

const SHOWN = 10; // of problems and of unknown ids

/** Posts a table of truths, which another system has exported. */
export function TruthTableButton({ name, manifest }: { name: string; manifest: Manifest }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button small onPress={() => setOpen(true)}>
        {t("truth.table")}
      </Button>
      {open && <TruthTableForm name={name} manifest={manifest} onClose={() => setOpen(false)} />}
    </>
  );
}

function TruthTableForm({ name, manifest, onClose }: { name: string; manifest: Manifest; onClose: () => void }) {
  const t = useText();
  const queries = useQueryClient();
  const [table, setTable] = useState<Table | null>(null);
  const [posted, setPosted] = useState(0);
  const [sent, setSent] = useState<Sent | null>(null);
  const take = async (file: File | undefined) => {
    setSent(null);
    setPosted(0);
    setTable(file === undefined ? null : await readFile(file, manifest));
  };
  const submit = async () => {
    if (table === null) return;
    setSent(null);
    setSent(await postTable(name, table.items, table.rows, setPosted));
    await queries.invalidateQueries({ queryKey: ["drift", name] });
  };
  const targets = manifest.outputs.map((output) => output.name).join(", ");
  return (
    <FormDialog
      title={t("truth.table")}
      action={t("truth.send")}
      ready={table !== null && table.items.length > 0 && table.problems.length === 0 && sent === null}
      onSubmit={submit}
      onClose={onClose}
      below={sent !== null && <SentView sent={sent} />}
    >
      <p className="small muted">{t("truth.table.text", { targets })}</p>
      <Field label={t("truth.file")}>
        {(id) => <input id={id} className="input" type="file" accept=".csv,.tsv,.txt,text/csv" onChange={(event) => void take(event.target.files?.[0])} />}
      </Field>
      {table !== null && table.problems.length === 0 && (
        <p className="small num" aria-live="polite">
          {posted > 0 && sent === null ? t("truth.progress", { n: number(posted), all: number(table.items.length) }) : t("truth.read", { n: number(table.items.length) })}
        </p>
      )}
      {table !== null && table.problems.length > 0 && <Problems table={table} />}
    </FormDialog>
  );
}

async function readFile(file: File, manifest: Manifest): Promise<Table> {
  const [{ parse }, bytes] = await Promise.all([import("papaparse"), file.arrayBuffer()]);
  return readTruths(parse(decoded(bytes), { skipEmptyLines: "greedy" }).data, manifest.outputs);
}

/** Text as spreadsheets write it: UTF-16 with its mark, else UTF-8, else the encoding of Western Windows. */
function decoded(bytes: ArrayBuffer): string {
  const [first, second] = new Uint8Array(bytes);
  if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

function Problems({ table }: { table: Table }) {
  const t = useText();
  return (
    <div role="alert">
      <Notice tone="bad">
        <ul>
          {table.problems.slice(0, SHOWN).map((problem, index) => (
            <li key={index}>
              {problem.row !== null && <code className="faint">{t("problem.row", { n: problem.row })} </code>}
              {t(problem.text, problem.values)}
            </li>
          ))}
          {table.problems.length > SHOWN && <li>{t("truth.more", { n: number(table.problems.length - SHOWN) })}</li>}
        </ul>
      </Notice>
    </div>
  );
}

function SentView({ sent }: { sent: Sent }) {
  const t = useText();
  const { stored, repeated, unknown } = sent;
  return (
    <div aria-live="polite" className="stack tight" data-testid="truths-sent">
      <Notice tone={unknown.length > 0 ? "warn" : "good"}>
        {t("truth.stored", { n: stored })}
        {repeated > 0 && ` ${t("truth.repeated", { n: repeated })}`}
        {unknown.length > 0 && ` ${t("truth.ids.unknown", { n: unknown.length, ids: unknown.slice(0, SHOWN).join(", ") + (unknown.length > SHOWN ? "…" : "") })}`}
      </Notice>
    </div>
  );
}
