import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import type { Me } from "../../api/session";
import { makeKey, revokeKey, useKeys } from "../../api/system";
import type { KeyInfo, NewKey } from "../../api/types";
import { ago, moment, secondsUntil } from "../../format";
import { useText } from "../../i18n";
import { Badge, Button, Card, Check, CopyButton, ErrorView, Field, Notice, Scroll } from "../basics";
import { Confirm, FormDialog } from "../dialogs";
import { showError } from "../toasts";

const SCOPES = ["read", "upload", "train", "predict", "keys", "admin"] as const;

export function Keys({ me }: { me: Me }) {
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
