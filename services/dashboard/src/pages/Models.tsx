import { useEffect } from "react";
import { Link } from "react-router";
import { useModel, useModelHistory, useModels } from "../api/models";
import type { ModelDetail, ModelInfo } from "../api/types";
import { Sparkline } from "../charts/small";
import { Badge, Button, Card, Empty, ErrorView, Loading, Stat } from "../components/basics";
import { heldOut } from "../components/MetricDifference";
import { headline } from "../components/RunBits";
import { useSeen } from "../components/useSeen";
import { ago, number, seconds, secondsUntil } from "../format";
import { useText, type Translate } from "../i18n";
import { metricName } from "../i18n/metrics";
import { useInAddress } from "../state/address";

export default function Models() {
  const t = useText();
  const models = useModels();
  const all = models.data?.pages.flatMap((page) => page.items) ?? [];
  const [asked, setAsked] = useInAddress("q", "");
  const items = all.filter((model) => model.name.includes(asked.trim().toLowerCase()));
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = models;
  const incomplete = asked.trim() !== "" && hasNextPage && !isFetchingNextPage;
  useEffect(() => {
    if (incomplete) void fetchNextPage(); // what is searched for may be among those that are not here yet
  }, [incomplete, fetchNextPage]);
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>{t("nav.models")}</h1>
          <p className="muted">{t("models.lead")}</p>
        </div>
        {all.length > 8 && <input type="search" className="input narrow" aria-label={t("models.search")} placeholder={t("models.search")} value={asked} onChange={(event) => setAsked(event.target.value)} />}
      </div>
      {models.isPending && <Loading />}
      {models.error && <ErrorView error={models.error} />}
      {models.data && all.length === 0 && (
        <Card>
          <Empty title={t("models.none")}>
            <p>{t("models.none.text")}</p>
            <Link className="button primary" to="/new">
              {t("nav.new")}
            </Link>
          </Empty>
        </Card>
      )}
      {all.length > 0 && items.length === 0 && !hasNextPage && <Empty title={t("models.nomatch")} />}
      <div className="grid">
        {items.map((model) => (
          <ModelCard key={model.name} model={model} />
        ))}
      </div>
      {hasNextPage && (
        <div>
          <Button disabled={isFetchingNextPage} onPress={() => void fetchNextPage()}>
            {t("more")}
          </Button>
        </div>
      )}
    </div>
  );
}

function ModelCard({ model }: { model: ModelInfo }) {
  const t = useText();
  const { host, seen } = useSeen<HTMLAnchorElement>();
  const detail = useModel(seen ? model.name : "");
  const serving = detail.data?.versions.find((version) => version.version === detail.data.serving);
  return (
    <Link ref={host} className="card link model-card" to={`/models/${encodeURIComponent(model.name)}`}>
      <div className="body">
        <div>
          <div className="row between">
            <h2 className="clip" title={model.name}>
              {model.name}
            </h2>
            {model.loaded ? <Badge tone="good">{t("models.loaded")}</Badge> : <Badge>{t("models.unloaded")}</Badge>}
          </div>
          <p className="small muted">
            {detail.data ? versionsLine(detail.data, t) : "…"} · {ago(model.created_at)}
          </p>
        </div>
        <div className="stats">{serving && bestFirst(serving.metrics).map(([name, value]) => <Stat key={name} name={metricName(name)} value={number(value, 3)} />)}</div>
        {seen && <CardTraffic name={model.name} />}
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
    <div className="traffic">
      <div className="row tight small num">
        {data.requests > 0 && <Sparkline label={t("model.requests")} values={data.points.map((point) => point.requests ?? 0)} color="var(--train)" />}
        <span className={data.requests > 0 ? "" : "muted"}>{data.requests > 0 ? t("model.hour", { n: number(data.requests) }) : t("model.hour.none")}</span>
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
    </div>
  );
}

/** How many versions a model has and which one serves. */
export const versionsLine = (model: ModelDetail, t: Translate): string =>
  model.serving === null ? t("models.versions.none", { n: model.versions.length }) : t("models.versions", { n: model.versions.length, v: model.serving });

/** Three figures, the one that says most first; of two alike, one. */
function bestFirst(metrics: Record<string, unknown>): [string, number][] {
  const figures = heldOut(metrics);
  const first = headline(Object.fromEntries(figures));
  const rank = ([name]: [string, number]) => (name === first ? 0 : /loss$/.test(name) ? 2 : 1);
  return [...figures].sort((a, b) => rank(a) - rank(b)).slice(0, 3);
}

export const metricLine = (metrics: Record<string, unknown>): string =>
  bestFirst(metrics)
    .map(([name, value]) => `${metricName(name)} ${number(value)}`)
    .join(" · ");
