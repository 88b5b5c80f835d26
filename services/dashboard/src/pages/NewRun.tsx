import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { Link, useNavigate, useSearchParams } from "react-router";
import { useDataset, useDatasets, refOf } from "../api/datasets";
import { runQuery, setNotes as saveNotes, submit } from "../api/runs";
import type { DatasetDetail, DatasetInfo } from "../api/types";
import { Button, Card, Empty, ErrorView, Field, Loading, Select } from "../components/basics";
import { ColumnPicker } from "../components/ColumnPicker";
import { kindKey } from "../components/DatasetColumns";
import { Icon } from "../components/icons";
import { LayerBuilder } from "../components/LayerBuilder";
import { SpecText } from "../components/SpecText";
import { showError } from "../components/toasts";
import { TrainingForm } from "../components/TrainingForm";
import { tagsOf } from "../components/runs/RunAbout";
import { Verdict } from "../components/Verdict";
import { number } from "../format";
import { useText } from "../i18n";
import { at, edit, read, write, type Json, type JsonObject, type Path } from "../spec/document";
import { readNetwork, writeEntry, type Entry } from "../spec/layers";
import { LESSONS, startFrom } from "../spec/lessons";
import { expand, shortest } from "../spec/columns";
import { columnsOf } from "../spec/network";
import { useCatalogue } from "../spec/useCatalogue";
import { useHistory } from "../spec/useHistory";
import { useVerdict } from "../spec/useVerdict";

/** A new run's spec, initially taken from the address, from the run to edit, or from a dataset. */
export default function NewRun() {
  const t = useText();
  const [query] = useSearchParams();
  const from = query.get("run");
  const run = useQuery({ ...runQuery(from ?? ""), enabled: from !== null && query.get("spec") === null });
  const datasets = useDatasets();
  if ((from !== null && run.isPending && query.get("spec") === null) || datasets.isPending) return <Loading />;
  const error = datasets.data ? (from !== null && query.get("spec") === null ? run.error : null) : datasets.error;
  if (error) {
    return (
      <div className="page">
        <h1>{t("new.title")}</h1>
        <ErrorView error={error} />
      </div>
    );
  }
  const known = datasets.data?.pages.flatMap((page) => page.items) ?? [];
  const start = query.get("spec") ?? (run.data ? write(run.data.spec as JsonObject) : null) ?? firstText(query.get("dataset"), query.get("target"), known);
  if (start === null) {
    return (
      <div className="page">
        <h1>{t("new.title")}</h1>
        <Empty title={t("datasets.none")}>
          <p>{t("new.nodata")}</p>
          <Link className="button primary" to="/datasets">
            {t("nav.datasets")}
          </Link>
        </Empty>
      </div>
    );
  }
  return <Builder key={`${from ?? ""}|${query.get("dataset") ?? ""}`} start={start} known={known} from={from} />;
}

function firstText(dataset: string | null, target: string | null, known: readonly DatasetInfo[]): string | null {
  const ref = dataset ?? (known[0] ? refOf(known[0]) : null);
  if (ref === null) return null;
  const spec: JsonObject = {
    dataset: ref,
    ...(target !== null && { target }),
  };
  return write(spec);
}

/** The spec's dataset as `name@version`. */
function refIn(spec: JsonObject | null): string | null {
  const dataset = spec?.dataset;
  if (typeof dataset === "string") return dataset;
  const ref = at(dataset, ["ref"]);
  return typeof ref === "string" ? ref : null;
}

function targetIn(spec: JsonObject | null): string | null {
  const target = spec?.target;
  if (typeof target === "string") return target;
  return nameOfTarget(Array.isArray(target) ? target[0] : target);
}

function nameOfTarget(target: Json | undefined): string | null {
  if (typeof target === "string") return target;
  const column = at(target, ["column"]) ?? at(target, ["columns", 0]) ?? at(target, ["name"]);
  return typeof column === "string" ? column : null;
}

/** The targets after the first one: a network may predict several columns at once. */
function furtherTargets(spec: JsonObject): string[] {
  if (!Array.isArray(spec.target)) return [];
  return spec.target.slice(1).flatMap((target) => nameOfTarget(target) ?? []);
}

function Builder({ start, known, from }: { start: string; known: readonly DatasetInfo[]; from: string | null }) {
  const t = useText();
  const go = useNavigate();
  const catalogue = useCatalogue();
  const { text, setText, undo, redo } = useHistory(start);
  const [sending, setSending] = useState(false);
  const [name, setName] = useState("");
  const [tags, setTags] = useState("");
  const [notes, setNotes] = useState("");
  const reading = useMemo(() => read(text), [text]);
  const [lastGood, setLastGood] = useState<JsonObject>(reading.spec ?? {});
  if (reading.spec && reading.spec !== lastGood) setLastGood(reading.spec);
  const spec = reading.spec ?? lastGood;
  const ref = refIn(spec);
  const dataset = useDataset(ref);
  const target = targetIn(spec);
  const verdict = useVerdict(reading.spec !== null && target !== null ? text : null);
  useTextInAddress(text, start);

  const change = (path: Path, value: Json | undefined) => setText((old) => edit(old, path, value));
  const entries = useMemo(() => readNetwork(spec.network), [spec.network]);
  const resolved = (verdict.answer?.resolved as JsonObject | undefined) ?? null;
  const summary = verdict.answer?.summary;
  const resolvedWidth = summary?.[0] ? sizeOf(summary[0].output_shape) : null;
  const outputWidth = summary?.at(-1) ? sizeOf(summary.at(-1)?.output_shape ?? []) : null;
  const columns = columnsOf(entries ?? [], resolvedWidth, outputWidth, { input: t("network.inputs"), output: target ?? t("target") });
  const offset = summary?.findIndex((row) => row.layer !== "InputLayer" && row.layer !== "Input") ?? 0;
  const counted = (entries ?? []).map((entry, index) => {
    const row = summary?.[offset + index];
    if (row?.layer !== entry.cls) return null;
    return { shape: `(${row.output_shape.slice(1).join(", ")})`, parameters: t("parameters.n", { n: number(row.parameters) }) };
  });
  const launch = () => {
    setSending(true);
    submit(text, { name: name.trim(), tags: tagsOf(tags) })
      .then(async (run) => {
        // The run is there: that its notes are not must not have it started twice.
        if (notes.trim() !== "") await saveNotes(run.id, notes.trim()).catch(showError);
        return run;
      })
      .then((run) => go(`/runs/${encodeURIComponent(run.id)}${from === null ? "" : `?from=${encodeURIComponent(from)}`}`))
      .catch(showError)
      .finally(() => setSending(false));
  };
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>{t("new.title")}</h1>
          <p className="muted">{t("new.lead")}</p>
        </div>
        <div className="row">
          <Button icon label={t("new.undo")} disabled={undo === null} onPress={() => undo?.()}>
            <Icon name="undo" />
          </Button>
          <Button icon label={t("new.redo")} disabled={redo === null} onPress={() => redo?.()}>
            <Icon name="redo" />
          </Button>
          <Button tone="primary" disabled={sending || verdict.answer === null} onPress={launch}>
            {sending ? t("new.sending") : t("new.start")}
          </Button>
        </div>
      </div>
      <div className="columns builder">
        <fieldset className="stack plain" disabled={reading.problem !== null}>
          <legend className="visually-hidden">{t("new.title")}</legend>
          <Card title={t("new.data")}>
            <DataForm spec={spec} known={known} ref_={ref} dataset={dataset.data ?? null} target={target} onChange={change} />
          </Card>
          <Card
            title={t("network")}
            actions={
              <select
                className="select small"
                aria-label={t("lesson.start")}
                value=""
                onChange={(event) => {
                  const lesson = LESSONS.find((one) => one.id === event.target.value);
                  if (lesson) setText((old) => startFrom(old, lesson));
                }}
              >
                <option value="">{t("lesson.start")}</option>
                {LESSONS.map((lesson) => (
                  <option key={lesson.id} value={lesson.id} title={t(lesson.text)}>
                    {t(lesson.title)}
                  </option>
                ))}
              </select>
            }
          >
            {spec.network === undefined && <DefaultChoice resolved={resolved} />}
            {entries === null ? (
              <p className="muted">{t("network.foreign")}</p>
            ) : (
              <LayerBuilder
                catalogue={catalogue}
                entries={entries}
                columns={columns}
                counted={counted}
                onChange={(next: Entry[]) => change(["network"], next.map(writeEntry))}
              />
            )}
          </Card>
          <Card title={t("new.about")}>
            <div className="fields wide">
              <Field label={t("name")}>{(id) => <input id={id} className="input" maxLength={120} value={name} onChange={(event) => setName(event.target.value)} />}</Field>
              <Field label={t("runs.tags")} hint={t("runs.tags.hint")}>
                {(id) => <input id={id} className="input" value={tags} onChange={(event) => setTags(event.target.value)} />}
              </Field>
              <Field label={t("runs.notes")}>{(id) => <textarea id={id} className="textarea" rows={2} maxLength={10_000} value={notes} onChange={(event) => setNotes(event.target.value)} />}</Field>
            </div>
          </Card>
          <TrainingForm catalogue={catalogue} spec={spec} columns={dataset.data?.columns ?? []} resolved={resolved} onChange={change} />
        </fieldset>
        <div className="stack sticky">
          <Verdict verdict={verdict} problem={reading.problem} missingTarget={target === null} />
          <Card title={t("spec.yaml")} bare actions={<span className="small faint">{t("spec.synced")}</span>}>
            <SpecText text={text} onChange={setText} marks={verdict.marks(text, reading.problem)} />
          </Card>
        </div>
      </div>
    </div>
  );
}

/** What is trained where no network is written: an average of several, which a change of its layers gives up. */
function DefaultChoice({ resolved }: { resolved: JsonObject | null }) {
  const t = useText();
  const members = at(resolved?.ensemble, ["members"]);
  return <p className="muted">{typeof members === "number" ? t("network.default.several", { n: members }) : t("network.default")}</p>;
}

const sizeOf = (shape: readonly (number | null)[]): number | null => {
  const rest = shape.slice(1).filter((size): size is number => size !== null);
  return rest.length === 0 ? null : rest.reduce((product, size) => product * size, 1);
};

/** Keeps the edited spec in the address, so it can be shared and restored. */
function useTextInAddress(text: string, start: string): void {
  useEffect(() => {
    if (text === start) return undefined;
    const timer = setTimeout(() => {
      const next = new URL(window.location.href);
      if (!next.pathname.endsWith("/new")) return;
      next.searchParams.set("spec", text);
      window.history.replaceState(window.history.state, "", next);
    }, 500);
    return () => clearTimeout(timer);
  }, [text, start]);
}

interface DataProps {
  spec: JsonObject;
  known: readonly DatasetInfo[];
  ref_: string | null;
  dataset: DatasetDetail | null;
  target: string | null;
  onChange: (path: Path, value: Json | undefined) => void;
}

function DataForm({ spec, known, ref_, dataset, target, onChange }: DataProps) {
  const t = useText();
  const refs = known.map(refOf);
  const columns = dataset?.columns ?? [];
  const written = spec.features;
  const further = useMemo(() => furtherTargets(spec), [spec]);
  const usable = columns.filter((column) => column.kind !== "ignored" && column.name !== target && !further.includes(column.name));
  const names = usable.map((column) => column.name);
  const listed = featureNames(written);
  const chosen = new Set(listed === null ? names : expand(listed, names));
  const choose = (next: string[]) => onChange(["features"], rewriteFeatures(written, next, names));
  const setTargets = (first: string, others: readonly string[]) => {
    if (first === "") return onChange(["target"], undefined);
    const written = new Map((Array.isArray(spec.target) ? spec.target : [spec.target]).map((own) => [nameOfTarget(own), own]));
    const all = [first, ...others].map((name) => written.get(name) ?? name);
    return onChange(["target"], all.length === 1 ? all[0] : all);
  };
  return (
    <div className="stack">
      <div className="fields wide">
        <Select
          label={t("target.question")}
          value={target ?? ""}
          choices={[
            { value: "", label: t("target.choose") },
            ...columns.map((column) => ({ value: column.name, label: `${column.name} (${t(kindKey(column.kind))})` })),
          ]}
          onChange={(next) => setTargets(next, further.filter((name) => name !== next))}
        />
        <Select
          label={t("dataset")}
          value={ref_ ?? ""}
          choices={[...new Set([...(ref_ ? [ref_] : []), ...refs])]}
          onChange={(next) => onChange(["dataset"], next)}
        />
        <Field label={t("model.name")} hint={t("model.name.hint")}>
          {(id) => (
            <input
              id={id}
              className="input"
              value={typeof spec.model === "string" ? spec.model : ""}
              placeholder={t("form.none")}
              onChange={(event) => onChange(["model"], event.target.value.trim().toLowerCase() || undefined)}
            />
          )}
        </Field>
      </div>
      {target !== null && columns.length > 2 && (
        <details>
          <summary>{t("targets.n", { n: further.length })}</summary>
          <p className="hint">{t("targets.hint")}</p>
          <div className="chips">
            {columns
              .filter((column) => column.kind !== "ignored" && column.kind !== "text" && column.name !== target)
              .map((column) => (
                <label key={column.name} className="chip">
                  <input
                    type="checkbox"
                    checked={further.includes(column.name)}
                    onChange={(event) => setTargets(target, event.target.checked ? [...further, column.name] : further.filter((name) => name !== column.name))}
                  />
                  <span className="clip">{column.name}</span>
                  <span className="faint small">{t(kindKey(column.kind))}</span>
                </label>
              ))}
          </div>
        </details>
      )}
      {usable.length > 0 && (
        <details>
          <summary>
            {t("features.n", { n: chosen.size, of: usable.length })}
          </summary>
          <ColumnPicker columns={usable} chosen={chosen} onChange={choose} />
        </details>
      )}
      {target !== null && dataset !== null && !columns.some((column) => column.name === target) && (
        <p className="wrong">{t("target.unknown", { column: target })}</p>
      )}
    </div>
  );
}

/** Features for the chosen columns: short where no column has an encoding of its own, which is kept otherwise. */
function rewriteFeatures(written: Json | undefined, chosen: readonly string[], usable: readonly string[]): Json | undefined {
  const entries = Array.isArray(written) ? written : Object.entries((written ?? {}) as JsonObject).map(([column, encoding]) => ({ [column]: encoding }));
  const own = entries.filter((entry) => typeof entry !== "string");
  const kept = own.filter((entry) => expand(featureNames([entry]) ?? [], usable).some((name) => chosen.includes(name)));
  if (kept.length === 0) return shortest(chosen, usable);
  const theirs = new Set(expand(featureNames(kept) ?? [], usable));
  const rest = chosen.filter((name) => !theirs.has(name));
  const out = [...theirs].filter((name) => !chosen.includes(name)).map((name) => `-${name}`);
  return [...kept, ...out, ...rest];
}

/** The columns and patterns that a spec names as features; null where it names none. */
export function featureNames(features: Json | undefined): string[] | null {
  if (features === undefined || features === null) return null;
  if (!Array.isArray(features)) return Object.keys(features as JsonObject);
  return features.map((feature) => {
    if (typeof feature === "string") return feature;
    const column = at(feature, ["column"]);
    return typeof column === "string" ? column : (Object.keys((feature ?? {}) as JsonObject)[0] ?? "");
  });
}
