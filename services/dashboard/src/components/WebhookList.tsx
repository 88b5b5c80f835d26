import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import {
  changeWebhook,
  createWebhook,
  deleteWebhook,
  redeliver,
  testWebhook,
  useDeliveries,
  useEventTypes,
  useWebhooks,
  type DeliveryInfo,
  type NewWebhook,
  type WebhookInfo,
} from "../api/automations";
import { ago, number } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { Badge, Button, Card, CopyButton, Empty, ErrorView, Field, Loading, Notice, Scroll } from "./basics";
import { Confirm, FormDialog, Sheet } from "./dialogs";
import { showError } from "./toasts";

/** Webhooks with their logs. */
export function WebhookList() {
  const t = useText();
  const queries = useQueryClient();
  const webhooks = useWebhooks();
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState<NewWebhook | null>(null);
  const [shown, setShown] = useState<WebhookInfo | null>(null);
  const [deleting, setDeleting] = useState<WebhookInfo | null>(null);
  const refresh = () => void queries.invalidateQueries({ queryKey: ["webhooks"] });
  const act = (promise: Promise<unknown>) => void promise.then(refresh).catch(showError);
  return (
    <Card
      title={t("hook.title")}
      bare
      actions={
        <Button small onPress={() => setMaking(true)}>
          {t("hook.new")}
        </Button>
      }
    >
      {webhooks.isPending && <Loading />}
      {webhooks.error && <ErrorView error={webhooks.error} />}
      {made?.secret && (
        <div className="body">
          <Notice tone="good">
            {t("hook.secret")} <code className="break">{made.secret}</code> <CopyButton text={made.secret} />
          </Notice>
        </div>
      )}
      {webhooks.data?.length === 0 && (
        <div className="body">
          <Empty title={t("hook.none")}>{t("hook.none.text")}</Empty>
        </div>
      )}
      {webhooks.data && webhooks.data.length > 0 && (
        <Scroll label={t("hook.title")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("hook.to")}</th>
                <th scope="col">{t("hook.events")}</th>
                <th scope="col">{t("auto.state")}</th>
                <th scope="col">
                  <span className="visually-hidden">{t("actions")}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {webhooks.data.map((one) => (
                <tr key={one.id}>
                  <td>
                    <span className="break address">{one.url ?? one.channel}</span>
                    {one.description && <div className="small faint">{one.description}</div>}
                  </td>
                  <td className="small mono">{one.events.join(", ")}</td>
                  <td>
                    <WebhookState webhook={one} />
                  </td>
                  <td className="right">
                    <div className="row tight end">
                      <Button small onPress={() => setShown(one)}>
                        {t("hook.log")}
                      </Button>
                      {one.enabled && (
                        <Button small onPress={() => void testWebhook(one.id).then(() => setShown(one)).catch(showError)}>
                          {t("hook.test")}
                        </Button>
                      )}
                      <Button small onPress={() => act(changeWebhook(one.id, { enabled: !one.enabled }))}>
                        {t(one.enabled ? "hook.disable" : "hook.enable")}
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
      {shown && <DeliveryLog webhook={shown} onClose={() => setShown(null)} />}
      {making && (
        <WebhookForm
          onClose={() => setMaking(false)}
          onMade={(one) => {
            setMade(one);
            setMaking(false);
            refresh();
          }}
        />
      )}
      <Confirm
        open={deleting !== null}
        danger
        title={t("hook.delete.title")}
        action={t("auto.delete")}
        onClose={() => setDeleting(null)}
        onConfirm={() => {
          if (deleting) act(deleteWebhook(deleting.id));
        }}
      >
        {t("hook.delete.text")}
      </Confirm>
    </Card>
  );
}

function WebhookState({ webhook }: { webhook: WebhookInfo }) {
  const t = useText();
  if (!webhook.enabled)
    return (
      <>
        <Badge tone="bad">{t("hook.state.disabled")}</Badge> <span className="small faint">{webhook.disabled_reason}</span>
      </>
    );
  if (webhook.failing_since) return <Badge tone="warn">{t("hook.state.failing", { time: ago(webhook.failing_since) })}</Badge>;
  return <Badge tone="good">{t("auto.on")}</Badge>;
}

function DeliveryLog({ webhook, onClose }: { webhook: WebhookInfo; onClose: () => void }) {
  const t = useText();
  const queries = useQueryClient();
  const log = useDeliveries(webhook.id);
  const again = (one: DeliveryInfo) =>
    void redeliver(webhook.id, one.id)
      .then(() => queries.invalidateQueries({ queryKey: ["webhooks", webhook.id] }))
      .catch(showError);
  return (
    <Sheet open wide title={t("hook.log.of", { to: webhook.url ?? webhook.channel ?? "" })} onClose={onClose}>
      {log.isPending && <Loading />}
      {log.error && <ErrorView error={log.error} />}
      {log.data?.length === 0 && <p className="muted">{t("hook.log.none")}</p>}
      {log.data && log.data.length > 0 && (
        <Scroll label={t("hook.log")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("auto.at")}</th>
                <th scope="col">{t("hook.event")}</th>
                <th scope="col">{t("hook.delivery")}</th>
                <th scope="col">{t("hook.attempts")}</th>
                <th scope="col">{t("hook.answer")}</th>
                <th scope="col">
                  <span className="visually-hidden">{t("actions")}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {log.data.map((one) => {
                const last = one.log[one.log.length - 1];
                return (
                  <tr key={one.id}>
                    <td className="muted">{ago(one.created_at)}</td>
                    <td>
                      <span className="mono">{one.type}</span> <span className="faint mono small break">{one.event}</span>
                    </td>
                    <td>
                      <Badge tone={one.state === "delivered" ? "good" : one.state === "failed" ? "bad" : "plain"}>{t(`hook.delivery.${one.state}`)}</Badge>
                    </td>
                    <td className="num">{number(one.log.length)}</td>
                    <td className="small">{last ? (last.error ?? last.status) : ""}</td>
                    <td className="right">
                      <Button small disabled={!webhook.enabled} onPress={() => again(one)}>
                        {t("hook.redeliver")}
                      </Button>
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </Scroll>
      )}
    </Sheet>
  );
}

function WebhookForm({ onClose, onMade }: { onClose: () => void; onMade: (made: NewWebhook) => void }) {
  const t = useText();
  const say = useSentence();
  const types = useEventTypes();
  const [url, setUrl] = useState("https://");
  const [events, setEvents] = useState("run.failed, drift.*");
  const wanted = events.split(/[\s,]+/).filter(Boolean);
  return (
    <FormDialog
      title={t("hook.new")}
      action={t("auto.create")}
      ready={wanted.length > 0}
      onSubmit={() => createWebhook(url.trim(), wanted).then(onMade)}
      onClose={onClose}
    >
      <Field label={t("hook.url")} hint={t("hook.url.hint")}>
        {(id) => <input id={id} className="input" type="url" required value={url} onChange={(event) => setUrl(event.target.value)} />}
      </Field>
      <Field label={t("hook.events")} hint={t("hook.events.hint")}>
        {(id) => <input id={id} className="input" required value={events} onChange={(event) => setEvents(event.target.value)} />}
      </Field>
      <details>
        <summary>{t("hook.types")}</summary>
        <ul className="small">
          {Object.entries(types.data ?? {}).map(([type, text]) => (
            <li key={type}>
              <code>{type}</code> <span className="muted">{say(text)}</span>
            </li>
          ))}
        </ul>
      </details>
    </FormDialog>
  );
}
