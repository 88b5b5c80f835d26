import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { annotate } from "../../api/runs";
import { useText } from "../../i18n";
import { Field } from "../basics";
import { FormDialog } from "../dialogs";
import { showMessage } from "../toasts";

export interface Annotated {
  id: string;
  name: string | null;
  tags: string[];
  notes: string | null;
}

/** `a, b ,a` as its distinct tags. */
export const tagsOf = (text: string): string[] => [...new Set(text.split(/[,，、]/).map((tag) => tag.trim()).filter(Boolean))];

/** Edits a run's name, tags and notes. */
export function RunAbout({ run, onClose }: { run: Annotated; onClose: () => void }) {
  const t = useText();
  const queries = useQueryClient();
  const [name, setName] = useState(run.name ?? "");
  const [tags, setTags] = useState(run.tags.join(", "));
  const [notes, setNotes] = useState(run.notes ?? "");
  const save = () =>
    annotate(run.id, { name: name.trim() || null, tags: tagsOf(tags), notes: notes.trim() || null }).then(async () => {
      await Promise.all(["runs", "run", "run-tags"].map((key) => queries.invalidateQueries({ queryKey: [key] })));
      showMessage(t("runs.saved"));
      onClose();
    });
  return (
    <FormDialog title={t("runs.edit.title")} action={t("runs.save")} onSubmit={save} onClose={onClose}>
      <Field label={t("name")}>{(id) => <input id={id} className="input" maxLength={120} autoFocus value={name} onChange={(event) => setName(event.target.value)} />}</Field>
      <Field label={t("runs.tags")} hint={t("runs.tags.hint")}>
        {(id) => <input id={id} className="input" value={tags} onChange={(event) => setTags(event.target.value)} />}
      </Field>
      <Field label={t("runs.notes")}>{(id) => <textarea id={id} className="textarea" rows={5} maxLength={10_000} value={notes} onChange={(event) => setNotes(event.target.value)} />}</Field>
    </FormDialog>
  );
}
