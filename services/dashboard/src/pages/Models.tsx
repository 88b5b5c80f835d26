import { Link } from "react-router";
import { useModel, useModelHistory, useModels } from "../api/models";
import type { ModelDetail, ModelInfo } from "../api/types";
import { Sparkline } from "../charts/small";
import { Badge, Card, Empty, ErrorView, Loading } from "../components/basics";
import { heldOut } from "../components/MetricDifference";
import { ago, number, seconds, secondsUntil } from "../format";
import { useText, type Translate } from "../i18n";

export default function Models() {
  const t = useText();
  const models = useModels();
  const items = models.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <div className="page">
      <div>
        <h1>{t("nav.models")}</h1>
        <p className="muted">{t("models.lead")}</p>
      </div>
      {models.isPending && <Loading />}
      {models.error && <ErrorView error={models.error} />}
      {models.data && items.length === 0 && (
        <Card>
          <Empty title={t("models.none")}>
            <p>{t("models.none.text")}</p>
            <Link className="button primary" to="/new">
              {t("nav.new")}
            </Link>
          </Empty>
        </Card>
      )}
      <div className="grid">
        {items.map((model) => (
          <ModelCard key={model.name} model={model} />
        ))}
      </div>
    </div>
  );
}

function ModelCard({ model }: { model: ModelInfo }) {
  const t = useText();
  const detail = useModel(model.name);
  const serving = detail.data?.versions.find((version) => version.version === detail.data.serving);
  return (
    <Link className="card link" to={`/models/${encodeURIComponent(model.name)}`}>
      <div className="body stack tight">
        <div className="row between">
          <h2 className="clip">{model.name}</h2>
          {model.loaded ? <Badge tone="good">{t("models.loaded")}</Badge> : <Badge>{t("models.unloaded")}</Badge>}
        </div>
        <div className="row tight small muted">
          {detail.data ? versionsLine(detail.data, t) : "…"}
        </div>
        <div className="small num">{serving ? metricLine(serving.metrics) : ""}</div>
        <CardTraffic name={model.name} />
        <div className="small faint">
          {t("created")} {ago(model.created_at)}
        </div>
      </div>
    </Link>
  );
}

/** The last hour in a few figures, with the last fault if it was within a day. */
function CardTraffic({ name }: { name: string }) {
  const t = useText();
  const { data } = useModelHistory(name, "hour", 30_000);
  if (!data) return null;
  const fault = data.fault !== null && secondsUntil(data.fault.at) > -86_400 ? data.fault : null;
  return (
    <>
      <div className="row tight small num">
        <Sparkline label={t("model.requests")} values={data.points.map((point) => point.requests ?? 0)} color="var(--train)" />
        <span>{t("model.hour", { n: number(data.requests) })}</span>
        {data.p99 !== null && (
          <span className="muted">
            p99 {seconds(data.p99)}
          </span>
        )}
        {data.errors > 0 && <Badge tone="bad">{t("model.errors", { n: number(data.errors) })}</Badge>}
        {data.refused > 0 && <Badge tone="warn">{t("model.refused", { n: number(data.refused) })}</Badge>}
        {data.drifting_since && <Badge tone="warn">{t("drift.drifted")}</Badge>}
      </div>
      {fault && (
        <div className="small muted clip" title={fault.detail}>
          {t("model.fault")} {ago(fault.at)}: {fault.status} {fault.detail}
        </div>
      )}
    </>
  );
}

/** How many versions a model has and which one serves. */
export const versionsLine = (model: ModelDetail, t: Translate): string =>
  model.serving === null ? t("models.versions.none", { n: model.versions.length }) : t("models.versions", { n: model.versions.length, v: model.serving });

export const metricLine = (metrics: Record<string, unknown>): string =>
  heldOut(metrics)
    .slice(0, 3)
    .map(([name, value]) => `${name} ${number(value)}`)
    .join(" · ");
