/** Who else may use a model or a dataset: closed until its owner opens it, for as little as is needed. */

import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { shareDataset } from "../api/datasets";
import { shareModel } from "../api/models";
import type { DatasetDetail, ModelDetail } from "../api/types";
import { useText } from "../i18n";
import { Button, Check, Select } from "./basics";
import { Confirm, FormDialog } from "./dialogs";
import { showError, showMessage } from "./toasts";

const USES = ["nobody", "ask", "inspect", "download"] as const;
type Use = (typeof USES)[number];

function useSave(key: readonly unknown[]) {
  const queries = useQueryClient();
  const t = useText();
  return (done: Promise<unknown>) =>
    done.then(() => {
      showMessage(t("saved"));
      return queries.invalidateQueries({ queryKey: key });
    });
}

export function ModelSharing({ model }: { model: ModelDetail }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const use: Use = model.sharing ?? "nobody";
  return (
    <>
      <Button onPress={() => setOpen(true)}>{use === "nobody" ? t("share") : t("share.shared", { use: t(`share.${use}`) })}</Button>
      {open && <ModelForm model={model} use={use} onClose={() => setOpen(false)} />}
    </>
  );
}

function ModelForm({ model, use, onClose }: { model: ModelDetail; use: Use; onClose: () => void }) {
  const t = useText();
  const save = useSave(["model", model.name]);
  const [chosen, setChosen] = useState<Use>(use);
  const [feedback, setFeedback] = useState(model.open_feedback);
  return (
    <FormDialog
      title={t("share.title", { name: model.name })}
      action={t("share.save")}
      onSubmit={() => save(shareModel(model.name, chosen === "nobody" ? null : chosen, feedback)).then(onClose)}
      onClose={onClose}
    >
      <Select
        label={t("share.label")}
        value={chosen}
        choices={USES.map((value) => ({ value, label: t(`share.${value}`) }))}
        hint={t(`share.${chosen}.text`)}
        onChange={(value) => setChosen(USES.find((known) => known === value) ?? "nobody")}
      />
      <Check label={t("share.feedback")} checked={feedback} onChange={setFeedback} />
    </FormDialog>
  );
}

export function DatasetSharing({ dataset, reference }: { dataset: DatasetDetail; reference: string }) {
  const t = useText();
  const save = useSave(["dataset", reference]);
  const [asking, setAsking] = useState(false);
  const next = !dataset.shared;
  return (
    <>
      <Button onPress={() => setAsking(true)}>{next ? t("share") : t("share.stop")}</Button>
      <Confirm
        open={asking}
        title={next ? t("share.title", { name: dataset.name }) : t("share.stop.title", { name: dataset.name })}
        action={next ? t("share") : t("share.stop")}
        onClose={() => setAsking(false)}
        onConfirm={() => void save(shareDataset(reference, next)).catch(showError)}
      >
        {next ? t("share.dataset.text") : t("share.dataset.stop.text")}
      </Confirm>
    </>
  );
}
