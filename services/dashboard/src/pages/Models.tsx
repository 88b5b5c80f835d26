import { Link } from "react-router";
import { useModel, useModels } from "../api/models";
import type { ModelDetail, ModelInfo } from "../api/types";
import { Badge, Card, Empty, ErrorView, Loading } from "../components/basics";
import { ago, number } from "../format";
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
        <div className="small faint">{ago(model.created_at)}</div>
      </div>
    </Link>
  );
}

/** How many versions a model has and which one serves. */
export const versionsLine = (model: ModelDetail, t: Translate): string =>
  model.serving === null ? t("models.versions.none", { n: model.versions.length }) : t("models.versions", { n: model.versions.length, v: model.serving });

export function metricLine(metrics: Record<string, unknown>): string {
  const part = (metrics.test ?? metrics.validation ?? metrics) as Record<string, unknown>;
  return Object.entries(part)
    .filter(([, value]) => typeof value === "number")
    .slice(0, 3)
    .map(([name, value]) => `${name} ${number(value as number)}`)
    .join(" · ");
}
