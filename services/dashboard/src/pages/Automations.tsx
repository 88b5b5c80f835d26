import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "react-router";
import { parse } from "yaml";
import {
  createAutomation,
  deleteAutomation,
  rehearseAutomation,
  rehearsePolicy,
  switchAutomation,
  useAutomations,
  useFirings,
  type AutomationInfo,
  type Rehearsal,
} from "../api/automations";
import { Badge, Button, Card, Empty, ErrorView, Field, Loading, Notice, Scroll } from "../components/basics";
import { AddressTabs, Confirm, FormDialog, Sheet } from "../components/dialogs";
import { shortId } from "../components/RunBits";
import { showError } from "../components/toasts";
import { WebhookList } from "../components/WebhookList";
import { ago, moment } from "../format";
import { named, useText, type Key, type Translate } from "../i18n";

const EXAMPLE = `on: {appended: my-table, rows: 1000}
do: {champion: my-model}
gate: {margin: 0}
then: promote
`;
const BAD = new Set(["failed", "refused", "rejected"]);

export default function Automations() {
  const t = useText();
  return (
    <div className="page">
      <div>
        <h1>{t("nav.automations")}</h1>
        <p className="muted">{t("auto.lead")}</p>
      </div>
      <AddressTabs
        label={t("nav.automations")}
        tabs={[
          { id: "automations", title: t("nav.automations"), content: () => <AutomationList /> },
          { id: "webhooks", title: t("hook.title"), content: () => <WebhookList /> },
        ]}
      />
    </div>
  );
}

/** When a policy is due, in its own words. */
function whenOf(automation: AutomationInfo, t: Translate): string {
  const { timezone, ...on } = automation.policy.on;
  const said = Object.entries(on).filter(([, value]) => value !== null && value !== undefined);
  const zone = on.schedule && timezone !== "UTC" ? ` (${timezone})` : "";
  return said.map(([name, value]) => `${named("auto.on", name, t)} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`).join(", ") + zone;
}

function AutomationList() {
  const t = useText();
  const queries = useQueryClient();
  const automations = useAutomations();
  const [making, setMaking] = useState(false);
  const [shown, setShown] = useState<AutomationInfo | null>(null);
  const [deleting, setDeleting] = useState<AutomationInfo | null>(null);
  const refresh = () => void queries.invalidateQueries({ queryKey: ["automations"] });
  return (
    <Card
      title={t("nav.automations")}
      bare
      actions={
        <Button small onPress={() => setMaking(true)}>
          {t("auto.new")}
        </Button>
      }
    >
      {automations.isPending && <Loading />}
      {automations.error && <ErrorView error={automations.error} />}
      {automations.data?.length === 0 && (
        <div className="body">
          <Empty title={t("auto.none")}>{t("auto.none.text")}</Empty>
        </div>
      )}
      {automations.data && automations.data.length > 0 && (
        <Scroll label={t("nav.automations")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("auto.name")}</th>
                <th scope="col">{t("auto.model")}</th>
                <th scope="col">{t("auto.when")}</th>
                <th scope="col">{t("auto.then")}</th>
                <th scope="col">{t("auto.next")}</th>
                <th scope="col">{t("auto.state")}</th>
                <th scope="col">
                  <span className="visually-hidden">{t("actions")}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {automations.data.map((one) => (
                <tr key={one.id}>
                  <td>{one.name}</td>
                  <td>{one.model && <Link to={`/models/${encodeURIComponent(one.model)}`}>{one.model}</Link>}</td>
                  <td className="small mono">{whenOf(one, t)}</td>
                  <td>{named("auto.then", String(one.policy.then), t)}</td>
                  <td className="muted">{one.next_at ? moment(one.next_at) : ""}</td>
                  <td>
                    <Badge tone={one.enabled ? "good" : "warn"}>{t(one.enabled ? "auto.on" : "auto.paused")}</Badge>
                    {one.paused_reason && <div className="small faint">{one.paused_reason}</div>}
                  </td>
                  <td className="right">
                    <div className="row tight end">
                      <Button small label={t("auto.details", { name: one.name })} onPress={() => setShown(one)}>
                        {t("auto.history")}
                      </Button>
                      <Button small onPress={() => void switchAutomation(one.id, !one.enabled).then(refresh).catch(showError)}>
                        {t(one.enabled ? "auto.pause" : "auto.resume")}
                      </Button>
                      <Button small tone="danger" onPress={() => setDeleting(one)}>
                        {t("auto.delete")}
                      </Button>
                    </div>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {shown && <Details automation={shown} onClose={() => setShown(null)} />}
      {making && (
        <AutomationForm
          onClose={() => setMaking(false)}
          onMade={() => {
            setMaking(false);
            refresh();
          }}
        />
      )}
      <Confirm
        open={deleting !== null}
        danger
        title={t("auto.delete.title", { name: deleting?.name ?? "" })}
        action={t("auto.delete")}
        onClose={() => setDeleting(null)}
        onConfirm={() => {
          if (deleting) void deleteAutomation(deleting.id).then(refresh).catch(showError);
        }}
      >
        {t("auto.delete.text")}
      </Confirm>
    </Card>
  );
}

/** What an automation did, and what it would have done. */
function Details({ automation, onClose }: { automation: AutomationInfo; onClose: () => void }) {
  const t = useText();
  const history = useFirings(automation.id);
  const [played, setPlayed] = useState<Rehearsal | null>(null);
  return (
    <Sheet open wide title={t("auto.details", { name: automation.name })} onClose={onClose}>
      {history.isPending && <Loading />}
      {history.error && <ErrorView error={history.error} />}
      {history.data?.length === 0 && <p className="muted">{t("auto.history.none")}</p>}
      {history.data && history.data.length > 0 && (
        <Scroll label={t("auto.history")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("auto.at")}</th>
                <th scope="col">{t("auto.what")}</th>
                <th scope="col">{t("auto.dataset")}</th>
                <th scope="col">{t("auto.run")}</th>
                <th scope="col">{t("auto.why")}</th>
              </tr>
            </thead>
            <tbody>
              {history.data.map((one) => (
                <tr key={one.id}>
                  <td className="muted">{ago(one.created_at)}</td>
                  <td>
                    <What what={one.decision ?? one.state} />
                  </td>
                  <td>{one.dataset}</td>
                  <td>
                    {one.run_id && (
                      <Link className="mono" to={`/runs/${encodeURIComponent(one.run_id)}`}>
                        {shortId(one.run_id)}
                      </Link>
                    )}
                  </td>
                  <td className="small">
                    {one.reason} {one.why}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      <Button small onPress={() => void rehearseAutomation(automation.id).then(setPlayed).catch(showError)}>
        {t("auto.rehearse")}
      </Button>
      {played && <Played rehearsal={played} />}
    </Sheet>
  );
}

function What({ what }: { what: string }) {
  const t = useText();
  return <Badge tone={what === "promoted" ? "good" : BAD.has(what) ? "bad" : "plain"}>{t(`auto.what.${what}` as Key)}</Badge>;
}

function Played({ rehearsal }: { rehearsal: Rehearsal }) {
  const t = useText();
  const { trained, promoted, refused, skipped } = rehearsal;
  return (
    <section className="stack">
      <h3>{t("auto.rehearsal")}</h3>
      <p>{rehearsal.ticks.length === 0 ? t("auto.rehearsal.none") : t("auto.rehearsal.text", { trained, promoted, refused, skipped })}</p>
      {rehearsal.notes.map((note) => (
        <p key={note} className="small muted">
          {note}
        </p>
      ))}
      {rehearsal.ticks.length > 0 && (
        <Scroll label={t("auto.rehearsal")}>
          <table className="table">
            <tbody>
              {rehearsal.ticks.map((tick) => (
                <tr key={tick.at + tick.reason}>
                  <td className="muted">{moment(tick.at)}</td>
                  <td>
                    <What what={tick.outcome} />
                  </td>
                  <td>{tick.dataset}</td>
                  <td className="small">
                    {tick.reason} {tick.why}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </section>
  );
}

function AutomationForm({ onClose, onMade }: { onClose: () => void; onMade: () => void }) {
  const t = useText();
  const [name, setName] = useState("");
  const [text, setText] = useState(EXAMPLE);
  const [played, setPlayed] = useState<Rehearsal | null>(null);
  let policy: object | null = null;
  let wrong: string | undefined;
  try {
    policy = parse(text) as object;
  } catch (problem) {
    wrong = t("auto.policy.wrong", { problem: problem instanceof Error ? problem.message : String(problem) });
  }
  const usable = policy !== null && typeof policy === "object";
  return (
    <FormDialog
      wide
      title={t("auto.new")}
      action={t("auto.create")}
      ready={usable && name.trim() !== ""}
      onSubmit={() => createAutomation(name.trim(), policy ?? {}).then(onMade)}
      onClose={onClose}
      beside={
        <Button disabled={!usable} onPress={() => policy && void rehearsePolicy(policy).then(setPlayed).catch(showError)}>
          {t("auto.rehearse")}
        </Button>
      }
      below={played && <Played rehearsal={played} />}
    >
      <Field label={t("auto.name")}>{(id) => <input id={id} className="input" required value={name} onChange={(event) => setName(event.target.value)} />}</Field>
      <Field label={t("auto.policy")} hint={t("auto.policy.hint")} wrong={wrong}>
        {(id) => <textarea id={id} className="textarea mono" rows={8} value={text} onChange={(event) => setText(event.target.value)} />}
      </Field>
      {usable ? null : <Notice tone="warn">{wrong ?? t("auto.policy.hint")}</Notice>}
    </FormDialog>
  );
}
