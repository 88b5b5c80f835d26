import { lazy, Suspense } from "react";
import { Link } from "react-router";
import { useDatasets, refOf } from "../api/datasets";
import { useRuns } from "../api/runs";
import { Card, Empty, ErrorView, Loading } from "../components/basics";
import { Icon, type IconName } from "../components/icons";
import { ago, number } from "../format";
import { useText } from "../i18n";
import { NextStep } from "../components/NextStep";
import { RunTable } from "../components/RunTable";

const FirstSteps = lazy(() => import("../components/FirstSteps"));

/** What to begin with; later the three steps, recent runs and datasets. */
export default function Home() {
  const t = useText();
  const runs = useRuns({}, 8);
  const datasets = useDatasets(8);
  const recent = runs.data?.pages[0]?.items ?? [];
  const tables = datasets.data?.pages[0]?.items ?? [];
  // The playground makes tables of its own, which are nobody's beginning.
  const isNew = runs.data !== undefined && datasets.data !== undefined && recent.length === 0 && tables.every((one) => one.name.startsWith("playground-"));
  if (isNew) {
    return (
      <div className="page">
        <div>
          <h1>{t("home.title")}</h1>
          <p className="muted">{t("home.lead")}</p>
        </div>
        <NextStep runs={[]} tables={[]} />
        <Suspense fallback={<Loading />}>
          <FirstSteps />
        </Suspense>
      </div>
    );
  }
  return (
    <div className="page">
      <div>
        <h1>{t("home.title")}</h1>
        <p className="muted">{t("home.lead")}</p>
      </div>
      {runs.data && datasets.data && <NextStep runs={recent} tables={tables.filter((one) => !one.source.out_of_fold)} />}
      <div className="grid four">
        <Step to="/datasets" icon="upload" title={t("home.upload")} text={t("home.upload.text")} n={1} />
        <Step to="/new" icon="curve" title={t("home.train")} text={t("home.train.text")} n={2} />
        <Step to="/models" icon="box" title={t("home.predict")} text={t("home.predict.text")} n={3} />
        <Step to="/playground" icon="play" title={t("home.play")} text={t("home.play.text")} n={null} />
      </div>
      <div className="columns">
        <Card title={t("home.runs")} bare actions={<Link to="/runs">{t("all")}</Link>}>
          {runs.isPending ? (
            <div className="body">
              <Loading />
            </div>
          ) : runs.error ? (
            <div className="body">
              <ErrorView error={runs.error} />
            </div>
          ) : recent.length === 0 ? (
            <Empty title={t("runs.none")} />
          ) : (
            <RunTable runs={recent} />
          )}
        </Card>
        <Card title={t("nav.datasets")} bare actions={<Link to="/datasets">{t("all")}</Link>}>
          {datasets.isPending ? (
            <div className="body">
              <Loading />
            </div>
          ) : datasets.error ? (
            <div className="body">
              <ErrorView error={datasets.error} />
            </div>
          ) : tables.length === 0 ? (
            <Empty title={t("datasets.none")} />
          ) : (
            <ul className="plain-list">
              {tables.map((dataset) => (
                <li key={dataset.id}>
                  <Link to={`/datasets/${encodeURIComponent(refOf(dataset))}`}>{dataset.name}</Link>
                  <span className="faint small">@{dataset.version}</span>
                  <span className="grow" />
                  <span className="small muted num">{t("rows.count", { n: number(dataset.rows) })}</span>
                  <span className="small faint">{ago(dataset.created_at)}</span>
                </li>
              ))}
            </ul>
          )}
        </Card>
      </div>
    </div>
  );
}

function Step({ to, icon, title, text, n }: { to: string; icon: IconName; title: string; text: string; n: number | null }) {
  return (
    <Link to={to} className="card link step">
      <div className="body">
        <div className="row tight step-icon">
          <Icon name={icon} />
          {n !== null && <span className="faint">{n}</span>}
        </div>
        <h2>{title}</h2>
        <p className="muted small">{text}</p>
      </div>
    </Link>
  );
}
