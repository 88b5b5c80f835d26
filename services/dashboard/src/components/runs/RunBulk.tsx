import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useNavigate } from "react-router";
import { changeMany, type BulkAction } from "../../api/runs";
import type { BulkRefusal } from "../../api/types";
import { number } from "../../format";
import { useText } from "../../i18n";
import { Button, Field } from "../basics";
import { Confirm, FormDialog } from "../dialogs";
import { showError, showMessage } from "../toasts";

interface Props {
  chosen: readonly string[];
  total: number;
  onAll: () => void;
  onNone: () => void;
}

/** What can be done with the chosen runs. */
export function RunBulk({ chosen, total, onAll, onNone }: Props) {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const [asking, setAsking] = useState<"cancel" | "delete" | "tag" | null>(null);
  const [ahead, setAhead] = useState<{ at: number; of: number } | null>(null);
  const busy = ahead !== null;
  const run = async (action: BulkAction, tag?: string) => {
    const [done, refused]: [string[], BulkRefusal[]] = [[], []];
    const of = chosen.length;
    setAhead({ at: 0, of });
    try {
      await changeMany(action, chosen, tag, (part) => {
        done.push(...part.done);
        refused.push(...part.refused);
        setAhead({ at: done.length + refused.length, of });
      });
      if (action === "delete") onNone();
    } catch (error) {
      showError(error);
    }
    if (done.length > 0) showMessage(t(`runs.done.${action}`, { n: number(done.length) }));
    if (refused.length > 0) showError(new Error(t("runs.refused", { n: number(refused.length), why: [...new Set(refused.map((one) => one.detail))].slice(0, 3).join(" ") })));
    setAhead(null);
    await Promise.all(["runs", "run-tags"].map((key) => queries.invalidateQueries({ queryKey: [key] })));
  };
  return (
    <div className="row bulk" role="toolbar" aria-label={t("runs.chosen", { n: number(chosen.length) })}>
      <strong>{t("runs.chosen", { n: number(chosen.length) })}</strong>
      {chosen.length < total && (
        <Button small tone="quiet" onPress={onAll}>
          {t("runs.choose.all", { n: number(total) })}
        </Button>
      )}
      <Button small tone="quiet" onPress={onNone}>
        {t("runs.choose.none")}
      </Button>
      <span className="grow" />
      {ahead && ahead.of > ahead.at && (
        <span className="muted num" role="status">
          {t("runs.busy", { at: number(ahead.at), of: number(ahead.of) })}
        </span>
      )}
      <Button small disabled={chosen.length < 2} onPress={() => void go(`/compare?runs=${chosen.slice(0, 100).join(",")}`)}>
        {t("compare.n", { n: Math.min(100, chosen.length) })}
      </Button>
      <Button small disabled={busy} onPress={() => setAsking("tag")}>
        {t("runs.tag")}
      </Button>
      <Button small disabled={busy} onPress={() => setAsking("cancel")}>
        {t("runs.cancel")}
      </Button>
      <Button small tone="danger" disabled={busy} onPress={() => setAsking("delete")}>
        {t("runs.delete")}
      </Button>
      <Confirm open={asking === "cancel"} title={t("runs.cancel.title", { n: number(chosen.length) })} action={t("runs.cancel")} keep={t("runs.keep")} danger onConfirm={() => void run("cancel")} onClose={() => setAsking(null)}>
        {t("runs.cancel.text")}
      </Confirm>
      <Confirm open={asking === "delete"} title={t("runs.delete.title", { n: number(chosen.length) })} action={t("runs.delete")} keep={t("runs.delete.keep")} danger onConfirm={() => void run("delete")} onClose={() => setAsking(null)}>
        {t("runs.delete.text")}
      </Confirm>
      {asking === "tag" && <TagForm onTag={(action, tag) => void run(action, tag)} onClose={() => setAsking(null)} />}
    </div>
  );
}

function TagForm({ onTag, onClose }: { onTag: (action: BulkAction, tag: string) => void; onClose: () => void }) {
  const t = useText();
  const [tag, setTag] = useState("");
  const change = (action: BulkAction) => {
    onTag(action, tag.trim());
    onClose();
  };
  const ready = tag.trim() !== "";
  return (
    <FormDialog
      title={t("runs.tag")}
      action={t("runs.tag.add")}
      ready={ready}
      onSubmit={async () => change("tag")}
      onClose={onClose}
      beside={
        <Button disabled={!ready} onPress={() => change("untag")}>
          {t("runs.untag")}
        </Button>
      }
    >
      <Field label={t("runs.tag.name")}>{(id) => <input id={id} className="input" maxLength={40} autoFocus value={tag} onChange={(event) => setTag(event.target.value)} />}</Field>
    </FormDialog>
  );
}
