import { useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { Link, useNavigate, useParams } from "react-router";
import { correctKinds, useDataset, useProfile, useRelations, useRows } from "../api/datasets";
import { KINDS, type Column, type DatasetDetail, type Kind, type Profile } from "../api/types";
import { Bars, Histogram } from "../charts/small";
import { Badge, Button, Card, ErrorView, Loading, Notice, ProblemLine, Select, Stat } from "../components/basics";
import { AddressTabs, Sheet } from "../components/dialogs";
import { tell, tellError } from "../components/toasts";
import type { ProblemItem } from "../api/client";
import { bytes, cell, moment, number, percent } from "../format";
import { useText, type Key } from "../i18n";
import { drawingOf } from "./profile";

export const kindKey = (kind: Kind): Key => `kind.${kind}`;

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
      {data.refused && data.refused.rows > 0 && <RefusedRows dataset={data} />}
      <AddressTabs
        label={data.name}
        tabs={[
          { id: "columns", title: t("columns"), content: () => <Columns dataset={data} /> },
          { id: "rows", title: t("rows"), content: () => <Rows reference={ref} /> },
          { id: "relations", title: t("relations"), content: () => <RelationsTab dataset={data} reference={ref} /> },
        ]}
      />
    </div>
  );
}

function missingShare(data: DatasetDetail): number {
  const cells = data.columns.reduce((sum, column) => sum + column.rows, 0);
  return cells === 0 ? 0 : data.columns.reduce((sum, column) => sum + (column.missing ?? 0), 0) / cells;
}

function sourceNote(source: Record<string, unknown>): string {
  return ["encoding", "delimiter", "compression"]
    .map((name) => source[name])
    .filter((value) => typeof value === "string" && value !== "")
    .map((value) => (value === "\t" ? "tab" : String(value)))
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

function Columns({ dataset }: { dataset: DatasetDetail }) {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const ref = `${dataset.name}@${dataset.version}`;
  const profile = useProfile(ref);
  const [kinds, setKinds] = useState<Record<string, Kind>>({});
  const [open, setOpen] = useState<Column | null>(null);
  const [busy, setBusy] = useState(false);
  const changed = Object.keys(kinds).length;

  const choose = (column: Column, kind: Kind) =>
    setKinds((old) => {
      const next = Object.fromEntries(Object.entries(old).filter(([name]) => name !== column.name)) as Record<string, Kind>;
      return kind === column.kind ? next : { ...next, [column.name]: kind };
    });
  const save = () => {
    setBusy(true);
    correctKinds(ref, kinds)
      .then((made) => {
        tell(t("kinds.saved", { ref: `${made.name}@${made.version}` }));
        setKinds({});
        void queries.invalidateQueries({ queryKey: ["datasets"] });
        return go(`/datasets/${encodeURIComponent(`${made.name}@${made.version}`)}`);
      })
      .catch(tellError)
      .finally(() => setBusy(false));
  };
  return (
    <div className="stack">
      {changed > 0 && (
        <div className="notice info row between">
          <span>{t("kinds.changed", { n: changed })}</span>
          <span className="row tight">
            <Button small onPress={() => setKinds({})}>
              {t("cancel")}
            </Button>
            <Button small tone="primary" disabled={busy} onPress={save}>
              {t("kinds.save")}
            </Button>
          </span>
        </div>
      )}
      <Card bare>
        <div className="table-wrap">
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("column")}</th>
                <th scope="col">{t("kind")}</th>
                <th scope="col">{t("distribution")}</th>
                <th scope="col" className="num">{t("missing")}</th>
                <th scope="col" className="num">{t("distinct")}</th>
                <th scope="col">{t("range")}</th>
              </tr>
            </thead>
            <tbody>
              {dataset.columns.map((column) => (
                <tr key={column.name}>
                  <td>
                    <button type="button" className="linklike" onClick={() => setOpen(column)}>
                      {column.name}
                    </button>
                    <div className="small faint evidence">{column.evidence}</div>
                  </td>
                  <td>
                    <Select
                      small
                      hideLabel
                      label={`${t("kind")}: ${column.name}`}
                      value={kinds[column.name] ?? column.kind}
                      choices={KINDS.map((kind) => ({ value: kind, label: t(kindKey(kind)) }))}
                      onChange={(kind) => choose(column, kind as Kind)}
                    />
                  </td>
                  <td>
                    <Distribution column={column} profile={profile.data} />
                  </td>
                  <td className="num">{column.missing ? percent(column.missing / Math.max(1, column.rows)) : <span className="faint">0</span>}</td>
                  <td className="num">
                    {column.distinct_exact === false ? "≈ " : ""}
                    {number(column.distinct ?? 0)}
                  </td>
                  <td className="small muted num-range">{rangeOf(column)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Card>
      {profile.error && <ErrorView error={profile.error} />}
      {open && (
        <Sheet open wide title={open.name} onClose={() => setOpen(null)}>
          <ColumnDetail column={open} profile={profile.data} />
        </Sheet>
      )}
    </div>
  );
}

function rangeOf(column: Column): string {
  if (column.kind === "datetime" && column.min != null && column.max != null) {
    const day = (value: number) => new Date(value * 1000).toISOString().slice(0, 10);
    return `${day(column.min)} – ${day(column.max)}`;
  }
  if (column.min != null && column.max != null) return `${number(column.min)} – ${number(column.max)}`;
  const labels = column.labels ?? [];
  return labels.length > 0 && labels.length <= 4 ? labels.join(", ") : "";
}

function Distribution({ column, profile }: { column: Column; profile: Profile | undefined }) {
  const t = useText();
  const drawing = drawingOf(profile?.columns[column.name]);
  const label = t("distribution.of", { column: column.name });
  if (drawing.counts.length > 0) return <Histogram label={label} counts={drawing.counts} edges={drawing.edges} />;
  const counts = drawing.top.length > 0 ? drawing.top.map((item) => item.count) : (column.label_counts ?? []);
  if (counts.length > 0 && (column.distinct ?? 0) <= 100) return <Histogram label={label} counts={[...counts].sort((a, b) => b - a).slice(0, 24)} />;
  return <span className="faint">–</span>;
}

function ColumnDetail({ column, profile }: { column: Column; profile: Profile | undefined }) {
  const t = useText();
  const drawing = drawingOf(profile?.columns[column.name]);
  const labels = column.labels?.map((label, index) => ({ label, count: column.label_counts?.[index] ?? 0 })) ?? [];
  const top = (drawing.top.length > 0 ? drawing.top : labels.sort((a, b) => b.count - a.count)).slice(0, 12);
  return (
    <div className="stack">
      <div className="row">
        <Badge tone="info">{t(kindKey(column.kind))}</Badge>
        <span className="muted">{column.evidence}</span>
      </div>
      {drawing.counts.length > 0 && (
        <Histogram label={t("distribution.of", { column: column.name })} counts={drawing.counts} edges={drawing.edges} width={620} height={150} />
      )}
      <dl className="facts">
        <dt>{t("rows")}</dt>
        <dd>{number(column.rows)}</dd>
        <dt>{t("missing")}</dt>
        <dd>
          {number(column.missing ?? 0)} ({percent((column.missing ?? 0) / Math.max(1, column.rows))})
        </dd>
        <dt>{t("distinct")}</dt>
        <dd>{number(column.distinct ?? 0)}</dd>
        {column.mean != null && column.kind === "numeric" && (
          <>
            <dt>{t("mean")}</dt>
            <dd>
              {number(column.mean)} ± {number(column.std)}
            </dd>
          </>
        )}
        {drawing.quantiles.length > 0 && column.kind === "numeric" && (
          <>
            <dt>{t("quantiles")}</dt>
            <dd>{drawing.quantiles.map(([name, value]) => `${name}: ${number(value)}`).join(" · ")}</dd>
          </>
        )}
      </dl>
      {top.length > 0 && (
        <div className="stack tight">
          <h3>{t("top.values")}</h3>
          <Bars label={t("top.values")} bars={top.map((item) => ({ label: item.label, value: item.count, text: number(item.count) }))} />
        </div>
      )}
      {drawing.tokens.length > 0 && (
        <div className="stack tight">
          <h3>{t("top.tokens")}</h3>
          <Bars
            label={t("top.tokens")}
            bars={drawing.tokens.slice(0, 15).map((item) => ({ label: item.label, value: item.count, text: number(item.count) }))}
          />
        </div>
      )}
    </div>
  );
}

function Rows({ reference }: { reference: string }) {
  const t = useText();
  const rows = useRows(reference, 50);
  const first = rows.data?.pages[0];
  const all = useMemo(() => rows.data?.pages.flatMap((page) => page.rows) ?? [], [rows.data]);
  if (rows.isPending) return <Loading />;
  if (rows.error) return <ErrorView error={rows.error} />;
  return (
    <Card bare>
      <div className="table-wrap">
        <table className="table dense">
          <thead>
            <tr>
              <th scope="col" className="num">#</th>
              {first?.columns.map((name) => (
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
                {row.map((value, column) => (
                  <td key={column} className={typeof value === "number" ? "num" : ""}>
                    {value === null ? <span className="faint">∅</span> : <span className="cell">{cell(value)}</span>}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
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
  const usable = dataset.columns.filter((column) => column.kind !== "ignored");
  const [target, setTarget] = useState(usable.at(-1)?.name ?? "");
  const relations = useRelations(reference, target);
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
            bars={relations.data.items.map((item) => ({
              label: item.column,
              value: item.strength,
              text: `${number(item.strength, 2)} ${item.direction != null ? (item.direction < 0 ? "↘" : "↗") : ""}${item.warning ? " ⚠" : ""}`,
            }))}
          />
        )}
        {relations.data?.items
          .filter((item) => item.warning)
          .map((item) => (
            <Notice key={item.column} tone="warn">
              <strong>{item.column}</strong>: {item.warning}
            </Notice>
          ))}
      </div>
    </Card>
  );
}
