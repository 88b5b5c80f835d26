import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useNavigate, useParams } from "react-router";
import { useLive } from "../api/live";
import { cancelRun, isLive, reproduceRun, retryRun, useRun } from "../api/runs";
import type { EventInfo, RunDetail } from "../api/types";
import { Badge, Button, Card, CopyButton, Empty, ErrorView, Loading, Notice } from "../components/basics";
import { AddressTabs, Confirm, type TabSpec } from "../components/dialogs";
import { about, importedDataset, keptEpochs, shortId, StateBadge } from "../components/RunBits";
import { Icon } from "../components/icons";
import { RunAbout } from "../components/runs/RunAbout";
import { RunCurves } from "../components/RunCurves";
import { RunDownloads } from "../components/RunDownloads";
import { RunEvaluation } from "../components/RunEvaluation";
import { RunFindings } from "../components/RunFindings";
import { hasFound, RunFound } from "../components/RunFound";
import { RunLayers } from "../components/RunLayers";
import { RunSurface } from "../components/RunSurface";
import { isSearch, RunTrials } from "../components/RunTrials";
import { showMessage, showError } from "../components/toasts";
import { ago, moment, number, seconds, secondsUntil } from "../format";
import { named, useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { write, type JsonObject } from "../spec/document";
import { useInAddress } from "../state/address";
import { lastList } from "../state/lastList";

export default function RunPage() {
  const { id = "" } = useParams();
  const run = useRun(id);
  if (run.isPending) return <Loading />;
  if (run.error) {
    return (
      <div className="page">
        <h1 className="mono">{id}</h1>
        <ErrorView error={run.error} />
      </div>
    );
  }
  return <RunView key={id} run={run.data} />;
}

interface InitialWeights {
  run: string | null;
  model: string | null;
  upload: string | null;
  freeze: string[];
}

function RunView({ run }: { run: RunDetail }) {
  const t = useText();
  const running = isLive(run);
  const live = useLive(run.id, running);
  const { dataset, target } = about(run.resolved);
  const imports = run.kind === "import";
  const made = importedDataset(run);
  const [edited] = useInAddress("from"); // the run whose spec was edited to start this one
  const origin = run.parent_id ?? (edited === "" ? null : edited);
  const begins = run.resolved.initial_weights as InitialWeights | null | undefined;
  const found: TabSpec[] = hasFound(run) ? [{ id: "found", title: t("tab.found"), content: () => <RunFound run={run} /> }] : [];
  const asked = ["ablate", "check", "folds"].some((key) => key in run.spec); // the default's folds are not what is looked for
  const trained: TabSpec[] = [
    ...(asked ? found : []),
    ...(isSearch(run) ? [{ id: "trials", title: t("tab.trials"), content: () => <RunTrials run={run} live={live} running={running} /> }] : []),
    { id: "curves", title: t("tab.curves"), content: () => <RunCurves run={run} live={live} running={running} best={bestTrial(run)} kept={keptEpochs(run.result)} /> },
    { id: "evaluation", title: t("tab.evaluation"), content: () => <RunEvaluation run={run} /> },
    ...(asked ? [] : found),
    { id: "findings", title: t("tab.findings"), content: () => <RunFindings run={run} /> },
    { id: "layers", title: t("tab.layers"), content: () => <RunLayers run={run} /> },
    { id: "surface", title: t("tab.surface"), content: () => <RunSurface run={run} /> },
  ];
  const tabs: TabSpec[] = [
    ...(imports ? [] : trained),
    { id: "events", title: t("tab.events"), content: () => <Events events={live.events} /> },
    { id: "spec", title: t("tab.spec"), content: () => <SpecTab run={run} /> },
  ];
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <div className="crumbs">
            <Link to={lastList()}>{t("nav.runs")}</Link>
            {origin && (
              <>
                {" "}
                · {t("run.parent")} <Link to={`/runs/${encodeURIComponent(origin)}`}>{shortId(origin)}</Link> · <Link to={`/compare?runs=${[origin, run.id].map(encodeURIComponent).join(",")}`}>{t("run.compare")}</Link>
              </>
            )}
          </div>
          <h1 className="row">
            <span className="break">{run.name ?? (imports ? t("run.import", { name: String(run.resolved.name) }) : target || shortId(run.id))}</span> <StateBadge state={run.state} cancelling={run.cancel_requested_at !== null} />
            {run.kind === "reproduction" && <Badge tone="info">{t("run.reproduction")}</Badge>}
          </h1>
          <p className="muted small">
            {(made || dataset) && <Link to={`/datasets/${encodeURIComponent(made || dataset)}`}>{made || dataset}</Link>}
            {run.model && (
              <>
                {" "}
                · {t("model")} <Link to={`/models/${encodeURIComponent(run.model)}`}>{run.model}</Link>
              </>
            )}{" "}
            {begins && (
              <>
                · {t("run.begins")}{" "}
                {begins.model ? (
                  <Link to={`/models/${encodeURIComponent(begins.model.split("@")[0] ?? "")}`}>{begins.model}</Link>
                ) : begins.run ? (
                  <Link to={`/runs/${encodeURIComponent(begins.run)}`}>{shortId(begins.run)}</Link>
                ) : (
                  <span className="mono">{begins.upload}</span>
                )}
                {begins.freeze.length > 0 && <> ({t("run.frozen", { layers: begins.freeze.join(", ") })})</>}{" "}
              </>
            )}
            · <span className="mono break">{run.id}</span> · {ago(run.created_at)}
          </p>
          <AboutLine run={run} />
        </div>
        <Actions run={run} />
      </div>
      <ProgressLine run={run} connected={live.connected} lastEpoch={live.table.lastEpoch} />
      {run.error && <Failure error={run.error} />}
      {run.reproduction && (
        <Notice tone={run.reproduction.equal ? "good" : "warn"}>
          {run.reproduction.equal
            ? t("run.equal", { n: run.reproduction.epochs_compared })
            : t("run.differs", { trial: run.reproduction.first_difference?.trial ?? 0, epoch: run.reproduction.first_difference?.epoch ?? 0 })}
        </Notice>
      )}
      <AddressTabs label={t("run.tabs")} tabs={tabs} />
    </div>
  );
}

/** A run's tags and notes, and the way to change them. */
function AboutLine({ run }: { run: RunDetail }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const about = { id: run.id, name: run.name ?? null, tags: run.tags ?? [], notes: run.notes ?? null };
  return (
    <div className="row tight small about-line">
      {about.tags.map((tag) => (
        <Link key={tag} className="tag" to={`/runs?tag=${encodeURIComponent(tag)}`}>
          {tag}
        </Link>
      ))}
      {about.notes && <span className="muted break">{about.notes}</span>}
      <Button small tone="quiet" label={t("runs.edit")} onPress={() => setOpen(true)}>
        <Icon name="pencil" /> {t("runs.edit.short")}
      </Button>
      {open && <RunAbout run={about} onClose={() => setOpen(false)} />}
    </div>
  );
}

/** The best trial according to the server; null while there is none. */
function bestTrial(run: RunDetail): number | null {
  const best = run.result?.best_trial;
  return typeof best === "number" ? best : null;
}

function Actions({ run }: { run: RunDetail }) {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const [asking, setAsking] = useState(false);
  const again = (made: Promise<RunDetail>) => void made.then((next) => go(`/runs/${encodeURIComponent(next.id)}`)).catch(showError);
  return (
    <div className="row">
      {isLive(run) && (
        <Button tone="danger" disabled={run.cancel_requested_at !== null} onPress={() => setAsking(true)}>
          {t("run.cancel")}
        </Button>
      )}
      {(run.state === "failed" || run.state === "cancelled") && <Button onPress={() => again(retryRun(run.id))}>{t("run.retry")}</Button>}
      {run.state === "succeeded" && ["training", "reproduction"].includes(run.kind) && <Button onPress={() => again(reproduceRun(run.id))}>{t("run.reproduce")}</Button>}
      {run.kind !== "import" && (
        <>
          <RunDownloads run={run} />
          <Link className="button" to={`/new?run=${encodeURIComponent(run.id)}`}>
            {t("run.edit")}
          </Link>
        </>
      )}
      {run.state === "succeeded" && run.model && (
        <Link className="button primary" to={`/models/${encodeURIComponent(run.model)}`}>
          {t("run.try")}
        </Link>
      )}
      <Confirm
        open={asking}
        title={t("run.cancel.title")}
        action={t("run.cancel")}
        keep={t("run.keep")}
        danger
        onClose={() => setAsking(false)}
        onConfirm={() =>
          void cancelRun(run.id)
            .then((next) => {
              showMessage(t(next.state === "cancelled" ? "run.cancelled" : "run.cancelling"));
              return queries.invalidateQueries({ queryKey: ["run", run.id] });
            })
            .catch(showError)
        }
      >
        {t("run.cancel.text")}
      </Confirm>
    </div>
  );
}

function ProgressLine({ run, connected, lastEpoch }: { run: RunDetail; connected: boolean; lastEpoch: number }) {
  const t = useText();
  if (run.state === "queued") {
    return (
      <Notice tone={run.phase === "taken_back" ? "warn" : "info"}>
        {run.phase === "taken_back" && `${t("run.takenback", { epoch: run.checkpoint_epoch ?? 0 })} `}
        {t("run.queued", { n: run.queue?.position ?? 0 })}{" "}
        {run.queue?.estimated_start ? t("run.starts", { when: ago(run.queue.estimated_start) }) : t("run.noworker")}
      </Notice>
    );
  }
  if (run.state !== "running") return null;
  const epochs = run.progress?.epochs ?? 1;
  const trials = run.progress?.trials ?? 1;
  const phase = run.phase ?? "training";
  const isOver = phase === "exporting" || phase === "evaluating";
  const trial = run.progress?.trial ?? 0;
  const epoch = trials > 1 ? (run.progress?.epoch ?? 0) : Math.max(lastEpoch, run.progress?.epoch ?? 0);
  const known = run.progress?.share ?? 0;
  const share = isOver ? 1 : trials > 1 ? known : Math.min(1, Math.max(known, epoch / epochs));
  return (
    <div className="stack tight">
      <div className="progress" role="progressbar" aria-label={t("run.progress")} aria-valuenow={Math.round(share * 100)} aria-valuemin={0} aria-valuemax={100}>
        <div style={{ width: `${100 * share}%` }} />
      </div>
      <div className="row between small muted num">
        <span>
          {t(`phase.${phase}`)}
          {run.progress && !isOver && ` · ${t("run.at", { epoch: number(epoch), epochs: number(epochs) })}`}
          {trials > 1 && !isOver && ` · ${t("run.trial", { trial: trial + 1, trials })}`}
          {!isOver && run.progress && <TimeLeft run={run} progress={run.progress} />}
        </span>
        <span>{connected ? t("run.live") : t("run.connecting")}</span>
      </div>
    </div>
  );
}

/** The time left; where training may stop early, the shortest and the longest. */
function TimeLeft({ run, progress }: { run: RunDetail; progress: NonNullable<RunDetail["progress"]> }) {
  const t = useText();
  const most = progress.estimated_finish ? secondsUntil(progress.estimated_finish) : 0;
  if (most <= 0) return null;
  const least = progress.earliest_finish ? Math.max(0, secondsUntil(progress.earliest_finish)) : null;
  if (least !== null && Math.round(least) < Math.round(most)) return ` · ${t("run.left.between", { least: seconds(least), most: seconds(most) })}`;
  return ` · ${t(least === null && canStopEarly(run) ? "run.left.most" : "run.left", { time: seconds(most) })}`;
}

/** Whether training can end before its last epoch: the time left is then the longest that it takes. */
function canStopEarly(run: RunDetail): boolean {
  const training = run.resolved.training as { early_stopping?: unknown } | undefined;
  return Boolean(training?.early_stopping);
}

function Failure({ error }: { error: Record<string, unknown> }) {
  const t = useText();
  const say = useSentence();
  const cause = String(error.cause ?? "");
  const evidence = Object.entries(error).filter(([name, value]) => !["cause", "detail", "title", "type", "status", "fix"].includes(name) && value !== null);
  return (
    <Notice tone="bad">
      <strong>{named("failure", cause, t)}</strong>
      <p className="break">{say(String(error.detail ?? ""))}</p>
      {typeof error.fix === "string" && <p>→ {say(error.fix)}</p>}
      {cause === "diverged" && (
        <p>
          <Link to="?tab=findings">{t("run.findings.look")}</Link>
        </p>
      )}
      {evidence.length > 0 && (
        <details>
          <summary className="small">{t("evidence")}</summary>
          <pre className="code">{JSON.stringify(Object.fromEntries(evidence), null, 2)}</pre>
        </details>
      )}
    </Notice>
  );
}

function Events({ events }: { events: readonly EventInfo[] }) {
  const t = useText();
  const say = useSentence();
  if (events.length === 0) return <Empty title={t("events.none")} />;
  return (
    <Card bare>
      <ol className="events">
        {[...events].reverse().map((event) => (
          <li key={event.id} className={event.level}>
            <time dateTime={event.created_at} title={moment(event.created_at)} className="mono small faint">
              {new Date(event.created_at).toLocaleTimeString()}
            </time>
            <span className="break">{say(event.message)}</span>
            {event.attempt > 1 && <span className="small faint">{t("attempt.n", { n: event.attempt })}</span>}
          </li>
        ))}
      </ol>
    </Card>
  );
}

function SpecTab({ run }: { run: RunDetail }) {
  const t = useText();
  const submitted = write(run.spec as JsonObject);
  const resolved = write(run.resolved as JsonObject);
  return (
    <div className="columns even">
      <Card title={t("spec.submitted")} actions={<CopyButton text={submitted} />}>
        <pre className="code" tabIndex={0} aria-label={t("spec.submitted")}>
          {submitted}
        </pre>
      </Card>
      <Card title={t("spec.resolved")} actions={<CopyButton text={resolved} />}>
        <pre className="code" tabIndex={0} aria-label={t("spec.resolved")}>
          {resolved}
        </pre>
      </Card>
    </div>
  );
}
