import { useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { Link, useNavigate, useParams } from "react-router";
import { isImportRun, refreshDataset, useDataset, useRelations, useRows } from "../api/datasets";
import type { DatasetDetail } from "../api/types";
import { Bars } from "../charts/small";
import { Button, Card, ErrorView, Loading, Notice, ProblemLine, Scroll, Select, Stat } from "../components/basics";
import { AT_ONCE, useColumnWindow } from "../components/ColumnWindow";
import { Columns } from "../components/DatasetColumns";
import { DatasetHistory } from "../components/DatasetHistory";
import { AddressTabs } from "../components/dialogs";
import { PredictedBy } from "../components/PredictedBy";
import { DatasetSharing } from "../components/Sharing";
import { Notices } from "../components/Notices";
import type { ProblemItem } from "../api/client";
import { showMessage, showError } from "../components/toasts";
import { bytes, cell, moment, number, percent } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { useInAddress } from "../state/address";

/** Imports a dataset again, and opens the version that came of it. */
function Refresh({ dataset }: { dataset: DatasetDetail }) {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const [busy, setBusy] = useState(false);
  const start = () => {
    setBusy(true);
    refreshDataset(dataset.id)
      .then((made) => {
        if (isImportRun(made)) return go(`/runs/${encodeURIComponent(made.id)}`);
        if (made.id === dataset.id) return showMessage(t("import.unchanged"));
        void queries.invalidateQueries({ queryKey: ["datasets"] });
        return go(`/datasets/${encodeURIComponent(`${made.name}@${made.version}`)}`);
      })
      .catch(showError)
      .finally(() => setBusy(false));
  };
  return (
    <Button disabled={busy} onPress={start}>
      {busy ? t("import.busy") : t("import.refresh")}
    </Button>
  );
}

export default function DatasetPage() {
  const { ref = "" } = useParams();
  const t = useText();
  const dataset = useDataset(ref);
  if (dataset.isPending) return <Loading />;
  if (dataset.error) {
    return (
      <div className="page">
        <h1>{ref}</h1>
        <ErrorView error={dataset.error} />
      </div>
    );
  }
  const { data } = dataset;
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <div className="crumbs">
            <Link to="/datasets">{t("nav.datasets")}</Link>
          </div>
          <h1 className="break">
            {data.name} <span className="faint">@{data.version}</span>
          </h1>
          <p className="muted small">
            {moment(data.created_at)} · <code title={data.sha256}>{data.sha256.slice(0, 12)}</code>
          </p>
        </div>
        <div className="row">
          {"imported" in data.source && <Refresh dataset={data} />}
          <DatasetSharing dataset={data} reference={ref} />
          <a className="button" href={`/api/v1/datasets/${encodeURIComponent(`${data.name}@${data.version}`)}/download?format=csv`} download>
            {t("download")} CSV
          </a>
          <Link className="button primary" to={`/new?dataset=${encodeURIComponent(`${data.name}@${data.version}`)}`}>
            {t("train.on")}
          </Link>
        </div>
      </div>
      <div className="card">
        <div className="body stats">
          <Stat name={t("rows")} value={number(data.rows)} />
          <Stat name={t("columns")} value={number(data.columns.length)} />
          <Stat name={t("size")} value={bytes(data.bytes)} />
          <Stat name={t("missing")} value={percent(missingShare(data))} />
          <Stat name={t("format")} value={String(data.source.format ?? "–")} note={sourceNote(data.source)} />
        </div>
      </div>
      <Predicted source={data.source} />
      {data.refused && data.refused.rows > 0 && <RefusedRows dataset={data} />}
      <Notices notices={data.notices} />
      <AddressTabs
        label={data.name}
        tabs={[
          { id: "columns", title: t("columns"), content: () => <Columns dataset={data} /> },
          { id: "rows", title: t("rows"), content: () => <Rows reference={ref} /> },
          { id: "relations", title: t("relations"), content: () => <RelationsTab dataset={data} reference={ref} /> },
          { id: "history", title: t("history.tab"), content: () => <DatasetHistory dataset={data} /> },
        ]}
      />
    </div>
  );
}

/** Whose predictions the dataset holds, if it was made by a batch prediction. */
function Predicted({ source }: { source: Record<string, unknown> }) {
  const made = source.predicted as { model: string; version: number; dataset: string; ref?: string } | undefined;
  return made ? <PredictedBy model={made.model} version={made.version} of={made.ref ?? made.dataset} /> : null;
}

function missingShare(data: DatasetDetail): number {
  const cells = data.columns.reduce((sum, column) => sum + column.rows, 0);
  return cells === 0 ? 0 : data.columns.reduce((sum, column) => sum + (column.missing ?? 0), 0) / cells;
}

const DELIMITERS: Readonly<Record<string, string>> = { "\t": "tab", ",": "“,”", ";": "“;”", "|": "“|”", " ": "“ ”" };

function sourceNote(source: Record<string, unknown>): string {
  return ["encoding", "delimiter", "compression"]
    .map((name) => source[name])
    .filter((value) => typeof value === "string" && value !== "")
    .map((value) => DELIMITERS[String(value)] ?? String(value))
    .join(" · ");
}

function RefusedRows({ dataset }: { dataset: DatasetDetail }) {
  const t = useText();
  return (
    <Notice tone="warn">
      <strong>{t("upload.refused", { n: number(dataset.refused?.rows ?? 0) })}</strong>
      <ul>
        {dataset.refused?.problems.map((problem, index) => (
          <li key={index}>
            <ProblemLine item={problem as unknown as ProblemItem} />
          </li>
        ))}
      </ul>
    </Notice>
  );
}

function Rows({ reference }: { reference: string }) {
  const t = useText();
  const rows = useRows(reference, 50);
  const first = rows.data?.pages[0];
  const all = useMemo(() => rows.data?.pages.flatMap((page) => page.rows) ?? [], [rows.data]);
  const { shown, bar } = useColumnWindow(first?.columns ?? [], (name) => name);
  if (rows.isPending) return <Loading />;
  if (rows.error) return <ErrorView error={rows.error} />;
  return (
    <Card bare>
      {bar}
      <Scroll>
        <table className="table dense">
          <thead>
            <tr>
              <th scope="col" className="num">#</th>
              {shown.map(({ column: name }) => (
                <th scope="col" key={name}>
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {all.map((row, index) => (
              <tr key={index}>
                <td className="num faint">{index + 1}</td>
                {shown.map(({ at }) => {
                  const value = row[at];
                  return (
                    <td key={at} className={typeof value === "number" ? "num" : ""}>
                      {value === null || value === undefined ? <span className="faint">∅</span> : <span className="cell">{cell(value)}</span>}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {rows.hasNextPage && (
        <div className="body row">
          <Button onPress={() => void rows.fetchNextPage()}>{t("more")}</Button>
          <span className="faint small">
            {number(all.length)} / {number(first?.total ?? 0)}
          </span>
        </div>
      )}
    </Card>
  );
}

function RelationsTab({ dataset, reference }: { dataset: DatasetDetail; reference: string }) {
  const t = useText();
  const say = useSentence();
  const usable = dataset.columns.filter((column) => !["ignored", "text"].includes(column.kind) && (column.missing ?? 0) < column.rows); // that can be a target
  const [target, setTarget] = useInAddress("target", usable.at(-1)?.name);
  const relations = useRelations(reference, target);
  const strongest = relations.data?.items.slice(0, AT_ONCE) ?? [];
  const left = (relations.data?.items.length ?? 0) - strongest.length;
  return (
    <Card title={t("relations.title")}>
      <div className="stack">
        <p className="muted">{t("relations.lead")}</p>
        <div className="narrow">
          <Select label={t("target")} value={target} choices={usable.map((column) => column.name)} onChange={setTarget} />
        </div>
        {relations.isPending && <Loading />}
        {relations.error && <ErrorView error={relations.error} />}
        {relations.data && (
          <Bars
            label={t("relations.title")}
            max={1}
            bars={strongest.map((item) => ({
              label: item.column,
              value: item.strength,
              text: `${number(item.strength, 2)} ${item.direction != null ? (item.direction < 0 ? "↘" : "↗") : ""}${item.warning ? " ⚠" : ""}`,
            }))}
          />
        )}
        {left > 0 && <p className="small muted">{t("relations.more", { n: number(left) })}</p>}
        {strongest
          .filter((item) => item.warning)
          .map((item) => (
            <Notice key={item.column} tone="warn">
              <strong>{item.column}</strong>: {say(item.warning ?? "")}
            </Notice>
          ))}
      </div>
    </Card>
  );
}
