import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useNavigate } from "react-router";
import { correctKinds, useProfiles } from "../api/datasets";
import { type Column, type DatasetDetail, type Kind } from "../api/types";
import { Bars, Histogram } from "../charts/small";
import { number, percent } from "../format";
import { useText, type Key } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { en } from "../i18n/en";
import { drawingOf, type ColumnProfile } from "../pages/profile";
import { useInAddress } from "../state/address";
import { Badge, Button, Card, ErrorView, Scroll, Select } from "./basics";
import { useColumnWindow } from "./ColumnWindow";
import { Sheet } from "./dialogs";
import { showMessage, showError } from "./toasts";

export const kindKey = (kind: Kind): Key => `kind.${kind}`;
/** Every kind: those that have a text. */
const KINDS = Object.keys(en).flatMap((key) => (key.startsWith("kind.") ? [key.slice("kind.".length) as Kind] : []));

/** The columns with small histograms, where their kinds can be corrected. */
export function Columns({ dataset }: { dataset: DatasetDetail }) {
  const t = useText();
  const say = useSentence();
  const go = useNavigate();
  const queries = useQueryClient();
  const ref = `${dataset.name}@${dataset.version}`;
  const [kinds, setKinds] = useState<Record<string, Kind>>({});
  const [shown, setShown] = useInAddress("column");
  const [busy, setBusy] = useState(false);
  const open = dataset.columns.find((column) => column.name === shown);
  const changed = Object.keys(kinds).length;
  const { shown: drawn, bar } = useColumnWindow(dataset.columns, (column) => column.name);
  const profiles = useProfiles(ref, [...drawn.map(({ at }) => at), ...(open ? [dataset.columns.indexOf(open)] : [])]);

  const choose = (column: Column, kind: Kind) =>
    setKinds((old) => {
      const next = Object.fromEntries(Object.entries(old).filter(([name]) => name !== column.name)) as Record<string, Kind>;
      return kind === column.kind ? next : { ...next, [column.name]: kind };
    });
  const save = () => {
    setBusy(true);
    correctKinds(ref, kinds)
      .then((made) => {
        showMessage(t("kinds.saved", { ref: `${made.name}@${made.version}` }));
        setKinds({});
        void queries.invalidateQueries({ queryKey: ["datasets"] });
        return go(`/datasets/${encodeURIComponent(`${made.name}@${made.version}`)}`);
      })
      .catch(showError)
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
        {bar}
        <Scroll>
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
              {drawn.map(({ column }) => (
                <tr key={column.name}>
                  <td>
                    <button type="button" className="linklike" onClick={() => setShown(column.name)}>
                      {column.name}
                    </button>
                    <div className="small faint evidence" title={say(column.evidence ?? "")}>{say(column.evidence ?? "")}</div>
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
                    <Distribution column={column} profile={profiles.columns[column.name]} />
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
        </Scroll>
      </Card>
      {profiles.error && <ErrorView error={profiles.error} />}
      {open && (
        <Sheet open wide title={open.name} onClose={() => setShown("")}>
          <ColumnDetail column={open} profile={profiles.columns[open.name]} />
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

function Distribution({ column, profile }: { column: Column; profile: ColumnProfile | undefined }) {
  const t = useText();
  const drawing = drawingOf(profile);
  const label = t("distribution.of", { column: column.name });
  if (drawing.counts.length > 0) return <Histogram label={label} counts={drawing.counts} edges={drawing.edges} />;
  const counts = drawing.top.length > 0 ? drawing.top.map((item) => item.count) : (column.label_counts ?? []);
  if (counts.length > 0 && (column.distinct ?? 0) <= 100) return <Histogram label={label} counts={[...counts].sort((a, b) => b - a).slice(0, 24)} />;
  return <span className="faint">–</span>;
}

function ColumnDetail({ column, profile }: { column: Column; profile: ColumnProfile | undefined }) {
  const t = useText();
  const say = useSentence();
  const drawing = drawingOf(profile);
  const labels = column.labels?.map((label, index) => ({ label, count: column.label_counts?.[index] ?? 0 })) ?? [];
  const top = (drawing.top.length > 0 ? drawing.top : labels.sort((a, b) => b.count - a.count)).slice(0, 12);
  return (
    <div className="stack">
      <div className="row">
        <Badge tone="info">{t(kindKey(column.kind))}</Badge>
        <span className="muted">{say(column.evidence ?? "")}</span>
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
