import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { recordTruth, type Recorded } from "../../api/feedback";
import type { Manifest } from "../../api/models";
import type { Outcome } from "../../api/types";
import { useText } from "../../i18n";
import { truthOf } from "../../spec/truths";
import { Button, Card, ErrorView, Field, Notice, Select } from "../basics";
import { LiveFigures } from "./LiveFigures";

type Output = Manifest["outputs"][number];
type Truths = Readonly<Record<string, Outcome["truth"]>>;
/** What the form has of an output: a text, or labels of several. */
type Entered = string | string[];

/** The row above, with what really happened: recorded for the live figures. */
export function WhatHappened({ name, version, row, manifest }: { name: string; version: number | null; row: unknown; manifest: Manifest }) {
  const t = useText();
  const queries = useQueryClient();
  const [typed, setTyped] = useState<Readonly<Record<string, Entered>>>({});
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [recorded, setRecorded] = useState<Recorded | null>(null);
  const { truths, wrong } = readAll(manifest.outputs, typed);
  const ready = Object.keys(truths).length > 0 && wrong.length === 0;
  const send = () => {
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    setRecorded(null);
    recordTruth(name, version, row, truths)
      .then((found) => {
        setRecorded(found);
        setTyped({});
        return queries.invalidateQueries({ queryKey: ["drift", name] });
      })
      .catch(setError)
      .finally(() => setBusy(false));
  };
  const stored = recorded !== null && recorded.feedback.unknown.length === 0;
  return (
    <Card title={t("truth.title")} level={3}>
      <form
        className="stack tight"
        data-testid="what-happened"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        {manifest.outputs.map((output) => (
          <TruthField
            key={output.name}
            output={output}
            several={manifest.outputs.length > 1}
            value={typed[output.name] ?? ""}
            wrong={wrong.includes(output.name)}
            onChange={(value) => setTyped((old) => ({ ...old, [output.name]: value }))}
          />
        ))}
        <div className="row">
          <Button type="submit" small disabled={!ready || busy}>
            {busy ? t("truth.busy") : t("truth.record")}
          </Button>
          <span className="small faint grow">{t("truth.hint")}</span>
        </div>
        <div aria-live="polite">
          {error !== null && <ErrorView error={error} />}
          {recorded !== null && !stored && <Notice tone="warn">{t("truth.late")}</Notice>}
          {stored && (
            <div className="stack tight">
              <Notice tone="good">{t("truth.recorded", { version: recorded.answer.version ?? "–" })}</Notice>
              <LiveFigures figures={recorded.feedback.live.filter((one) => String(one.version) === recorded.answer.version)} />
            </div>
          )}
        </div>
      </form>
    </Card>
  );
}

/** What can be sent, and the outputs whose text cannot be a truth. */
function readAll(outputs: readonly Output[], typed: Readonly<Record<string, Entered>>): { truths: Truths; wrong: string[] } {
  const truths: Record<string, Outcome["truth"]> = {};
  const wrong: string[] = [];
  for (const output of outputs) {
    const entered = typed[output.name] ?? "";
    if (entered === "") continue;
    const truth = typeof entered === "string" ? truthOf(output, entered.trim()) : entered;
    if (truth !== undefined) truths[output.name] = truth;
    else wrong.push(output.name);
  }
  return { truths, wrong };
}

interface TruthFieldProps {
  output: Output;
  several: boolean;
  value: Entered;
  wrong: boolean;
  onChange: (value: Entered) => void;
}

function TruthField({ output, several, value, wrong, onChange }: TruthFieldProps) {
  const t = useText();
  const label = several ? t("truth.of", { output: output.name }) : t("truth.one");
  const labels = (output.labels ?? []).map(String);
  if (output.task === "regression") {
    return (
      <Field label={label} wrong={wrong ? t("truth.number") : undefined}>
        {(id) => <input id={id} className="input" inputMode="decimal" value={String(value)} onChange={(event) => onChange(event.target.value)} />}
      </Field>
    );
  }
  if (output.task !== "multilabel") {
    return <Select label={label} value={String(value)} choices={[{ value: "", label: t("truth.unknown") }, ...labels.filter(Boolean)]} onChange={onChange} />;
  }
  const chosen = typeof value === "string" ? [] : value;
  const toggle = (one: string) => {
    const left = labels.filter((other) => (other === one) !== chosen.includes(other));
    onChange(left.length > 0 ? left : "");
  };
  return (
    <fieldset className="plain stack tight">
      <legend>{label}</legend>
      <div className="row tight">
        {labels.map((one) => (
          <label key={one} className="row tight">
            <input type="checkbox" checked={chosen.includes(one)} onChange={() => toggle(one)} /> {one}
          </label>
        ))}
        <label className="row tight">
          <input type="checkbox" checked={typeof value !== "string" && value.length === 0} onChange={(event) => onChange(event.target.checked ? [] : "")} /> {t("truth.none")}
        </label>
      </div>
    </fieldset>
  );
}
