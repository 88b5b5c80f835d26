import { useMemo } from "react";
import { Link } from "react-router";
import { refOf, useDataset, useVersions } from "../api/datasets";
import { useRuns } from "../api/runs";
import type { DatasetDetail, DatasetInfo, Kind } from "../api/types";
import { moment, number } from "../format";
import { useText, type Translate } from "../i18n";
import { changeOf, type ColumnChange } from "../spec/versions";
import { useInAddress } from "../state/address";
import { Card, Empty, ErrorView, Loading, Scroll, Select, Stat } from "./basics";
import { kindKey } from "./DatasetColumns";
import { RunTable } from "./RunTable";

const MOST_CHANGES = 200;

/** A table's versions, what this one changes of another, and which runs and models use it. */
export function DatasetHistory({ dataset }: { dataset: DatasetDetail }) {
  const versions = useVersions(dataset.name);
  if (versions.isPending) return <Loading />;
  if (versions.error) return <ErrorView error={versions.error} />;
  return (
    <div className="stack">
      <Versions dataset={dataset} versions={versions.data} />
      <Difference dataset={dataset} versions={versions.data} />
      <Uses dataset={dataset} />
    </div>
  );
}

interface Props {
  dataset: DatasetDetail;
  versions: readonly DatasetInfo[];
}

function Versions({ dataset, versions }: Props) {
  const t = useText();
  return (
    <Card title={t("history.versions")} bare>
      <Scroll label={t("history.versions")}>
        <table className="table">
          <thead>
            <tr>
              <th scope="col" className="num">{t("version")}</th>
              <th scope="col" className="num">{t("rows")}</th>
              <th scope="col">{t("history.from")}</th>
              <th scope="col">SHA-256</th>
              <th scope="col">{t("created")}</th>
            </tr>
          </thead>
          <tbody>
            {versions.map((one) => (
              <tr key={one.id} aria-current={one.id === dataset.id ? "true" : undefined}>
                <td className="num">{one.id === dataset.id ? <strong>{one.version}</strong> : <Link to={`/datasets/${encodeURIComponent(refOf(one))}?tab=history`}>{one.version}</Link>}</td>
                <td className="num">{number(one.rows)}</td>
                <td>{versions.find((other) => other.id === one.parent_id)?.version ?? <span className="faint">–</span>}</td>
                <td className="mono">{one.sha256.slice(0, 12)}</td>
                <td className="muted nowrap">{moment(one.created_at)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

function Difference({ dataset, versions }: Props) {
  const t = useText();
  const others = versions.filter((one) => one.id !== dataset.id);
  const earlier = others.find((one) => one.id === dataset.parent_id) ?? others.find((one) => one.version < dataset.version) ?? others[0];
  const [asked, setOther] = useInAddress("against", earlier ? String(earlier.version) : "");
  const other = others.find((one) => String(one.version) === asked) ?? earlier;
  const read = useDataset(other ? refOf(other) : null);
  const change = useMemo(() => (read.data ? changeOf(read.data, dataset) : null), [read.data, dataset]);
  if (!other) return null;
  const choices = others.map((one) => ({ value: String(one.version), label: t("history.version", { version: one.version }) }));
  return (
    <Card title={t("history.difference")} actions={<Select small hideLabel label={t("history.against")} value={String(other.version)} choices={choices} onChange={setOther} />}>
      {read.error && <ErrorView error={read.error} />}
      {change === null ? (
        !read.error && <Loading />
      ) : (
        <div className="stack">
          <div className="stats">
            <Stat name={t("rows")} value={signed(change.rows)} />
            <Stat name={t("history.columns.changed")} value={number(new Set(change.columns.map((one) => one.column)).size)} />
          </div>
          {change.reordered && <p className="small muted">{t("history.reordered")}</p>}
          {change.columns.length === 0 ? <p className="muted">{t("history.same")}</p> : <Changes changes={change.columns} />}
        </div>
      )}
    </Card>
  );
}

const signed = (value: number): string => (value > 0 ? `+${number(value)}` : number(value));

function Changes({ changes }: { changes: readonly ColumnChange[] }) {
  const t = useText();
  return (
    <>
      <Scroll label={t("history.difference")}>
        <table className="table dense">
          <thead>
            <tr>
              <th scope="col">{t("column")}</th>
              <th scope="col">{t("history.what")}</th>
              <th scope="col" className="num">{t("history.before")}</th>
              <th scope="col" className="num">{t("history.after")}</th>
            </tr>
          </thead>
          <tbody>
            {changes.slice(0, MOST_CHANGES).map((one) => (
              <tr key={`${one.column}\n${one.what}`}>
                <td className="break">{one.column}</td>
                <td>{t(`history.what.${one.what}`)}</td>
                <td className="num">{valueOf(one, one.before, t)}</td>
                <td className="num">{valueOf(one, one.after, t)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {changes.length > MOST_CHANGES && <p className="small muted">{t("history.more", { n: number(changes.length - MOST_CHANGES) })}</p>}
    </>
  );
}

function valueOf(change: ColumnChange, value: string | number | undefined, t: Translate): string {
  if (value === undefined || value === "") return "–";
  if (change.what === "kind") return t(kindKey(value as Kind));
  return typeof value === "number" ? number(value, 5) : value;
}

function Uses({ dataset }: { dataset: DatasetDetail }) {
  const t = useText();
  const runs = useRuns({ dataset_id: dataset.id, playground: "true" }, 20);
  if (runs.isPending) return <Loading />;
  if (runs.error) return <ErrorView error={runs.error} />;
  const found = runs.data.pages.flatMap((page) => page.items);
  const models = [...new Set(found.map((run) => run.model).filter((name) => name !== null))];
  return (
    <Card title={t("history.uses")} bare>
      {found.length === 0 ? (
        <Empty title={t("history.unused")} />
      ) : (
        <>
          {models.length > 0 && (
            <p className="body">
              {t("history.models")}{" "}
              {models.map((name, at) => (
                <span key={name}>
                  {at > 0 && ", "}
                  <Link to={`/models/${encodeURIComponent(name)}`}>{name}</Link>
                </span>
              ))}
            </p>
          )}
          <RunTable runs={found} />
          <p className="body small">
            <Link to={`/runs?dataset=${encodeURIComponent(dataset.name)}`}>{t("history.runs")}</Link>
          </p>
        </>
      )}
    </Card>
  );
}
