import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "react-router";
import type { Me } from "../api/session";
import { makeKey, revokeKey, useKeys, useLimits, useSystem } from "../api/system";
import type { KeyInfo, NewKey, SystemInfo } from "../api/types";
import { Badge, Button, Card, Check, CopyButton, ErrorView, Field, Loading, Notice, Scroll, Stat } from "../components/basics";
import { Confirm, FormDialog } from "../components/dialogs";
import { shortId, StateBadge } from "../components/RunBits";
import { showError } from "../components/toasts";
import { ago, bytes, moment, number, seconds, secondsUntil } from "../format";
import { useText } from "../i18n";

const SCOPES = ["read", "upload", "train", "predict", "keys", "admin"] as const;

export default function System() {
  const t = useText();
  const me = useQueryClient().getQueryData<Me>(["session"]);
  const admin = me?.scopes.includes("admin") ?? false;
  const system = useSystem(admin);
  return (
    <div className="page">
      <div>
        <h1>{t("nav.system")}</h1>
        <p className="muted">{t("system.lead")}</p>
      </div>
      {admin && system.isPending && <Loading />}
      {system.error && <ErrorView error={system.error} />}
      {system.data && <Now system={system.data} />}
      {me && (admin || me.scopes.includes("keys")) && <Keys me={me} />}
      <div className="grid two top">
        <LimitList />
        <Card title={t("system.more")}>
          <ul className="prose">
            <li>
              <a href="/docs">{t("system.docs")}</a>
            </li>
            <li>
              <a href="/metrics">{t("system.metrics")}</a>
            </li>
            <li>
              {system.data?.grafana_url ? (
                <a href={system.data.grafana_url} rel="noreferrer">
                  {t("system.grafana")}
                </a>
              ) : (
                <span className="muted">
                  {t("system.grafana.none")} <code>FITSERVE_GRAFANA_URL</code>
                </span>
              )}
            </li>
          </ul>
        </Card>
      </div>
    </div>
  );
}

const LONG_QUEUED_SECONDS = 600;

/** One banner: green, amber or red, and why. */
function Alarm({ system }: { system: SystemInfo }) {
  const t = useText();
  const alive = system.workers.filter((worker) => worker.alive).length;
  const lost = system.workers.length - alive;
  const queued = system.runs.queued ?? 0;
  const oldest = system.oldest_queued_seconds ?? 0;
  if (alive === 0) return <Notice tone={queued > 0 || lost > 0 ? "bad" : "warn"}>{t(queued > 0 ? "system.alarm.queue" : "system.alarm.workers", { queued: number(queued) })}</Notice>;
  const reasons = [lost > 0 && t("system.alarm.lost", { n: number(lost) }), oldest > LONG_QUEUED_SECONDS && t("system.alarm.waiting", { time: seconds(oldest), queued: number(queued) })];
  const said = reasons.filter(Boolean).join(" ");
  return <Notice tone={said ? "warn" : "good"}>{said || t("system.alarm.none", { n: number(alive) })}</Notice>;
}

function Now({ system }: { system: SystemInfo }) {
  const t = useText();
  const total = system.storage.reduce((sum, one) => sum + one.bytes, 0);
  return (
    <>
      <Alarm system={system} />
      <div className="card">
        <div className="body stats">
          <Stat name={t("system.workers")} value={number(system.workers.filter((worker) => worker.alive).length)} />
          <Stat name={t("state.running")} value={number(system.runs.running ?? 0)} />
          <Stat name={t("state.queued")} value={number(system.runs.queued ?? 0)} note={system.oldest_queued_seconds ? t("system.oldest", { time: seconds(system.oldest_queued_seconds) }) : undefined} />
          <Stat name={t("state.succeeded")} value={number(system.runs.succeeded ?? 0)} />
          <Stat name={t("state.failed")} value={number(system.runs.failed ?? 0)} />
          <Stat name={t("system.storage")} value={bytes(total)} />
          <Stat name="fitserve" value={system.version} />
        </div>
      </div>
      <div className="columns">
        <Card title={t("system.workers")} bare>
          {system.workers.length === 0 ? (
            <div className="body">
              <Notice tone="warn">{t("system.workers.none")}</Notice>
            </div>
          ) : (
            <Scroll>
              <table className="table">
                <thead>
                  <tr>
                    <th scope="col">{t("system.worker")}</th>
                    <th scope="col">{t("system.current")}</th>
                    <th scope="col">{t("system.started")}</th>
                    <th scope="col">{t("system.heartbeat")}</th>
                  </tr>
                </thead>
                <tbody>
                  {system.workers.map((worker) => (
                    <tr key={worker.id}>
                      <td>
                        <span className="break">{worker.hostname}</span> <span className="faint num">{worker.pid}</span>
                      </td>
                      <td>
                        {!worker.alive ? (
                          <Badge tone="bad">{t("system.lost")}</Badge>
                        ) : worker.run_id ? (
                          <Link className="mono" to={`/runs/${encodeURIComponent(worker.run_id)}`}>
                            {shortId(worker.run_id)}
                          </Link>
                        ) : (
                          <span className="muted">{t("system.idle")}</span>
                        )}
                      </td>
                      <td className="muted">{ago(worker.started_at)}</td>
                      <td>{worker.alive ? <span className="muted">{ago(worker.heartbeat_at)}</span> : <Badge tone="bad">{ago(worker.heartbeat_at)}</Badge>}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </Scroll>
          )}
        </Card>
        <Card title={t("system.storage")} bare>
          <ul className="plain-list">
            {[...system.storage]
              .sort((a, b) => b.bytes - a.bytes)
              .map((one) => (
                <li key={one.kind}>
                  <span>{one.kind}</span>
                  <span className="faint small num">{number(one.blobs)}</span>
                  <span className="grow" />
                  <span className="num">{bytes(one.bytes)}</span>
                </li>
              ))}
            {Object.entries(system.runs)
              .filter(([, count]) => count > 0)
              .map(([state, count]) => (
                <li key={state}>
                  <StateBadge state={state} />
                  <span className="grow" />
                  <span className="num">{number(count)}</span>
                </li>
              ))}
          </ul>
        </Card>
      </div>
    </>
  );
}

function Keys({ me }: { me: Me }) {
  const t = useText();
  const queries = useQueryClient();
  const keys = useKeys();
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState<NewKey | null>(null);
  const [revoking, setRevoking] = useState<KeyInfo | null>(null);
  const refresh = () => void queries.invalidateQueries({ queryKey: ["keys"] });
  return (
    <Card
      title={t("system.keys")}
      bare
      actions={
        <Button small onPress={() => setMaking(true)}>
          {t("system.keys.new")}
        </Button>
      }
    >
      {keys.error && <ErrorView error={keys.error} />}
      {made && (
        <div className="body">
          <Notice tone="good">
            {t("system.keys.token")} <code className="break">{made.token}</code> <CopyButton text={made.token} />
          </Notice>
        </div>
      )}
      <Scroll>
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t("system.keys.name")}</th>
              <th scope="col">{t("system.keys.owner")}</th>
              <th scope="col">{t("system.keys.scopes")}</th>
              <th scope="col">{t("system.keys.used")}</th>
              <th scope="col">{t("system.keys.state")}</th>
              <th scope="col">
                <span className="visually-hidden">{t("actions")}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {keys.data?.map((key) => (
              <tr key={key.id}>
                <td>
                  {key.name} <span className="faint mono small">{key.id}</span>
                </td>
                <td>{key.owner}</td>
                <td className="small">
                  {key.scopes.join(", ")}
                  {key.models && <span className="faint"> ({key.models.join(", ")})</span>}
                </td>
                <td className="muted">{ago(key.last_used_at)}</td>
                <td>
                  {key.revoked_at ? (
                    <Badge tone="bad">{t("system.keys.revoked")}</Badge>
                  ) : key.expires_at && secondsUntil(key.expires_at) < 0 ? (
                    <Badge tone="warn">{t("system.keys.expired")}</Badge>
                  ) : (
                    <Badge tone="good">{t("system.keys.active")}</Badge>
                  )}
                  {key.expires_at && <span className="small faint"> {moment(key.expires_at)}</span>}
                </td>
                <td className="right">
                  {!key.revoked_at && key.id !== me.key_id && (
                    <Button small tone="danger" onPress={() => setRevoking(key)}>
                      {t("system.keys.revoke")}
                    </Button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {making && (
        <KeyForm
          onClose={() => setMaking(false)}
          onMade={(key) => {
            setMade(key);
            setMaking(false);
            refresh();
          }}
        />
      )}
      <Confirm
        open={revoking !== null}
        danger
        title={t("system.keys.revoke.title", { name: revoking?.name ?? "" })}
        action={t("system.keys.revoke")}
        onClose={() => setRevoking(null)}
        onConfirm={() => {
          if (revoking) void revokeKey(revoking.id).then(refresh).catch(showError);
        }}
      >
        {t("system.keys.revoke.text")}
      </Confirm>
    </Card>
  );
}

function KeyForm({ onClose, onMade }: { onClose: () => void; onMade: (key: NewKey) => void }) {
  const t = useText();
  const [name, setName] = useState("");
  const [owner, setOwner] = useState("");
  const [scopes, setScopes] = useState<readonly string[]>(["read", "predict"]);
  return (
    <FormDialog
      title={t("system.keys.new")}
      action={t("system.keys.create")}
      ready={name.trim() !== "" && scopes.length > 0}
      onSubmit={() => makeKey(name.trim(), owner.trim(), [...scopes]).then(onMade)}
      onClose={onClose}
    >
      <Field label={t("system.keys.name")}>{(id) => <input id={id} className="input" value={name} placeholder="scoring-service" onChange={(event) => setName(event.target.value)} />}</Field>
      <Field label={t("system.keys.owner")}>{(id) => <input id={id} className="input" value={owner} onChange={(event) => setOwner(event.target.value)} />}</Field>
      <fieldset className="plain row">
        <legend className="label">{t("system.keys.scopes")}</legend>
        {SCOPES.map((scope) => (
          <Check key={scope} label={scope} checked={scopes.includes(scope)} onChange={(on) => setScopes((old) => (on ? [...old, scope] : old.filter((one) => one !== scope)))} />
        ))}
      </fieldset>
    </FormDialog>
  );
}

function LimitList() {
  const t = useText();
  const limits = useLimits();
  return (
    <Card title={t("system.limits")}>
      {limits.error && <ErrorView error={limits.error} />}
      <dl className="facts">
        {Object.entries(limits.data ?? {}).map(([name, value]) => (
          <div key={name} className="contents">
            <dt>{name.replaceAll("_", " ")}</dt>
            <dd className="num">{typeof value === "string" ? value : name.endsWith("bytes") ? bytes(value) : number(value)}</dd>
          </div>
        ))}
      </dl>
    </Card>
  );
}
