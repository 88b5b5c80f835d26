import { useState } from "react";
import { useNavigate } from "react-router";
import { useConnections, useDatasets } from "../api/datasets";
import { predictTable } from "../api/models";
import type { ConnectionInfo, ModelDetail, PredictionRequest } from "../api/types";
import { useText } from "../i18n";
import { Button, Field, Select } from "./basics";
import { FormDialog } from "./dialogs";

const IF_EXISTS = ["fail", "append", "replace"] as const;
type IfExists = (typeof IF_EXISTS)[number];

/** Predicts all rows of a dataset, into a new dataset or through a connection that the operator lets be written. */
export function PredictTableButton({ model }: { model: ModelDetail }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  if (model.serving === null) return null;
  return (
    <>
      <Button onPress={() => setOpen(true)}>{t("batch.title")}</Button>
      {open && <PredictTableForm model={model} onClose={() => setOpen(false)} />}
    </>
  );
}

function PredictTableForm({ model, onClose }: { model: ModelDetail; onClose: () => void }) {
  const t = useText();
  const go = useNavigate();
  const tables = (useDatasets(200).data?.pages ?? []).flatMap((page) => page.items.map((one) => `${one.name}@${one.version}`));
  const writable = (useConnections(true).data ?? []).filter((one) => one.writable);
  const [chosen, setTable] = useState("");
  const [version, setVersion] = useState("");
  const [target, setTarget] = useState(""); // a connection's name; "": a new dataset
  const [place, setPlace] = useState("");
  const [ifExists, setIfExists] = useState<IfExists>("fail");
  const [columns, setColumns] = useState("");
  const table = chosen || (tables[0] ?? "");
  const connection = writable.find((one) => one.name === target);
  const submit = () =>
    predictTable(model.name, {
      dataset: table,
      ...(version !== "" && { version: Number(version) }),
      ...whereTo(connection, place.trim(), ifExists),
      ...(columns.trim() !== "" && { columns: columns.split(",").map((one) => one.trim()) }),
    }).then((made) => go(`/runs/${encodeURIComponent(made.id)}`));
  const versions = model.versions.map((one) => String(one.version));
  return (
    <FormDialog title={t("batch.title")} action={t("batch.start")} ready={table !== "" && place.trim() !== ""} onSubmit={submit} onClose={onClose}>
      <p className="small muted">{t("batch.text")}</p>
      <div className="fields">
        <Select label={t("batch.table")} value={table} choices={tables} onChange={setTable} />
        <Select
          label={t("batch.version")}
          value={version}
          choices={[{ value: "", label: t("batch.version.serving") }, ...versions]}
          onChange={setVersion}
        />
        <Select
          label={t("batch.target")}
          value={target}
          choices={[{ value: "", label: t("batch.target.dataset") }, ...writable.map((one) => one.name)]}
          onChange={setTarget}
        />
        <Field label={t(connection === undefined ? "batch.name" : isDatabase(connection) ? "batch.into.table" : "batch.into.folder")}>
          {(id) => <input id={id} className="input" value={place} onChange={(event) => setPlace(event.target.value)} />}
        </Field>
        {connection !== undefined && (
          <Select
            label={t("batch.exists")}
            value={ifExists}
            choices={IF_EXISTS.map((value) => ({ value: value as string, label: t(`batch.exists.${value}`) }))}
            onChange={(value) => setIfExists(value as IfExists)}
          />
        )}
        <Field label={t("batch.columns")} hint={t("batch.columns.hint")}>
          {(id) => <input id={id} className="input" value={columns} onChange={(event) => setColumns(event.target.value)} />}
        </Field>
      </div>
    </FormDialog>
  );
}

const isDatabase = (connection: ConnectionInfo) => connection.sources.includes("sql");

/** The members of a request that say where predictions go. */
function whereTo(connection: ConnectionInfo | undefined, place: string, if_exists: IfExists): Pick<PredictionRequest, "name" | "destination"> {
  if (connection === undefined) return { name: place };
  if (isDatabase(connection)) return { destination: { sql: { connection: connection.name, table: place, if_exists } } };
  const folder = { connection: connection.name, path: place, if_exists };
  const kind = (["gs", "az"] as const).find((one) => connection.sources.includes(one)) ?? "s3";
  return { destination: { [kind]: folder } };
}
