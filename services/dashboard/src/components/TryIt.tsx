import { useEffect, useMemo, useState } from "react";
import { useSearchParams } from "react-router";
import { explain, predict, predictPath, useManifest, type PredictionAnswer, type Explanation, type Manifest } from "../api/models";
import type { ModelDetail } from "../api/types";
import { Bars, Histogram } from "../charts/small";
import { number, percent, seconds } from "../format";
import { useText, type Translate } from "../i18n";
import { useInAddress } from "../state/address";
import { fieldsOf, positionOf, readPrediction, requests, rowOf, timeText, type FieldSpec, type OutputPrediction } from "../spec/prediction";
import { Badge, Button, Card, CopyButton, ErrorView, Loading, Notice, Segment, Select } from "./basics";
import { WhatHappened } from "./feedback/WhatHappened";

/** A form generated from the model's columns; the prediction updates as the user types. */
export function TryIt({ model }: { model: ModelDetail }) {
  const t = useText();
  const [query, setQuery] = useSearchParams();
  const asked = Number(query.get("version"));
  const pinned = model.versions.some((version) => version.version === asked) ? asked : null;
  const manifest = useManifest(model.name, pinned ?? model.serving);
  if (model.serving === null) return <Notice tone="warn">{t("try.noversion")}</Notice>;
  if (manifest.isPending) return <Loading />;
  if (manifest.error) return <ErrorView error={manifest.error} />;
  return (
    <div className="stack">
      <div className="narrow">
        <Select
          label={t("version")}
          value={pinned === null ? "" : String(pinned)}
          choices={[{ value: "", label: t("try.serving", { v: model.serving }) }, ...model.versions.filter((version) => !version.retired_at).map((version) => String(version.version))]}
          onChange={(value) =>
            setQuery(
              (old) => {
                const next = new URLSearchParams(old);
                if (value) next.set("version", value);
                else next.delete("version");
                return next;
              },
              { replace: true },
            )
          }
        />
      </div>
      <TryForm key={`${model.name}-${pinned ?? model.serving}`} name={model.name} version={pinned} manifest={manifest.data} />
    </div>
  );
}

/** The row in the address, restricted to columns that the model has. */
function readTyped(text: string, usual: Record<string, string>): Record<string, string> {
  try {
    const found = Object.entries(JSON.parse(text || "{}") as Record<string, unknown>);
    return Object.fromEntries(found.filter((pair): pair is [string, string] => pair[0] in usual && typeof pair[1] === "string"));
  } catch {
    return {};
  }
}

function TryForm({ name, version, manifest }: { name: string; version: number | null; manifest: Manifest }) {
  const t = useText();
  const fields = useMemo(() => fieldsOf(manifest), [manifest]);
  const usual = useMemo(() => Object.fromEntries(fields.map((field) => [field.name, field.typical])), [fields]);
  const [asked, setAsked] = useInAddress("row");
  const [typed, setTyped] = useState<Record<string, string>>(() => ({ ...usual, ...readTyped(asked, usual) }));
  useEffect(() => {
    const own = Object.fromEntries(Object.entries(typed).filter(([column, value]) => value !== usual[column]));
    const timer = setTimeout(() => setAsked(Object.keys(own).length > 0 ? JSON.stringify(own) : ""), 400);
    return () => clearTimeout(timer);
  }, [typed, usual, setAsked]);
  const row = useMemo(() => rowOf(fields, typed), [fields, typed]);
  const [chosen, setChosen] = useInAddress("interval");
  const usualLevel = manifest.interval?.levels[0] ?? null;
  const level = chosen === "none" ? false : Number(chosen) > 0 && Number(chosen) < 1 ? Number(chosen) : null;
  const bounded = manifest.outputs.some((output) => output.task !== "multilabel");
  const [answer, setAnswer] = useState<PredictionAnswer | null>(null);
  const [explanation, setExplanation] = useState<Explanation | null>(null);
  const [error, setError] = useState<unknown>(null);

  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => {
      predict(name, version, [row], stop.signal, level).then(
        (found) => {
          setAnswer(found);
          setError(null);
        },
        (failure: unknown) => {
          if (stop.signal.aborted) return;
          setAnswer(null); // it was the answer to another row
          setExplanation(null);
          setError(failure);
        },
      );
      explain(name, version, row, stop.signal).then(setExplanation, () => {
        if (!stop.signal.aborted) setExplanation(null);
      });
    }, 120);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [name, version, row, level]);

  const predictions = answer ? readPrediction(manifest, answer.predictions[0]) : [];
  return (
    <div className="columns try">
      <Card
        title={t("try.row")}
        actions={
          <Button small onPress={() => setTyped(usual)}>
            {t("try.typical")}
          </Button>
        }
      >
        <div className="try-fields">
          {fields.map((field) => (
            <TryField key={field.name} field={field} value={typed[field.name] ?? ""} onChange={(value) => setTyped((old) => ({ ...old, [field.name]: value }))} />
          ))}
        </div>
      </Card>
      <div className="stack sticky">
        <Card title={t("try.answer")} actions={bounded && <Select small hideLabel label={t("try.level")} value={level === false ? "none" : level === null ? "" : String(level)} choices={levelChoices(level || null, usualLevel, t)} onChange={setChosen} />}>
          <div className="stack" aria-live="polite" data-testid="answer">
            {error !== null && <ErrorView error={error} />}
            {predictions.map((one) => (
              <AnswerView key={one.output} prediction={one} several={predictions.length > 1} level={(level || null) ?? usualLevel} />
            ))}
            {answer?.warnings.map((warning, index) => (
              <Notice key={index} tone="warn">
                {warning.message ?? JSON.stringify(warning)}
              </Notice>
            ))}
            {answer && (
              <span className="small faint num">
                {t("try.took", { version: answer.version ?? "–", time: seconds(answer.milliseconds / 1000) })}
              </span>
            )}
          </div>
        </Card>
        {explanation && <Contributions explanation={explanation} predictions={predictions} manifest={manifest} />}
        {answer && <WhatHappened key={JSON.stringify(row)} name={name} version={version} row={row} manifest={manifest} />}
      </div>
      <Requests path={predictPath(name, version, "predict")} row={row} level={level} />
    </div>
  );
}

const LEVELS = [0.5, 0.8, 0.9, 0.95, 0.99];

/** The usual levels, and the one in the address. */
function levelChoices(level: number | null, usual: number | null, t: Translate) {
  const levels = level === null || LEVELS.includes(level) ? LEVELS : [...LEVELS, level].sort((a, b) => a - b);
  const none = usual === null ? [{ value: "", label: t("try.level.none") }] : [{ value: "", label: t("try.level.usual", { level: percent(usual, 0) }) }, { value: "none", label: t("try.level.none") }];
  return [...none, ...levels.map((one) => ({ value: String(one), label: t("try.level.of", { level: percent(one, 0) }) }))];
}

function BoundsView({ bounds, level }: { bounds: NonNullable<OutputPrediction["bounds"]>; level: number | null }) {
  const t = useText();
  const share = percent(level, 0);
  if ("labels" in bounds) {
    return (
      <p data-testid="bounds">
        {t("try.set", { level: share })}{" "}
        {bounds.labels.map((label) => (
          <Badge key={label}>{label}</Badge>
        ))}
      </p>
    );
  }
  return <p data-testid="bounds">{t("try.interval", { level: share, low: number(bounds.low, 5), high: number(bounds.high, 5) })}</p>;
}

function AnswerView({ prediction, several, level }: { prediction: OutputPrediction; several: boolean; level: number | null }) {
  return (
    <div className="stack tight">
      {several && <h3>{prediction.output}</h3>}
      <div className="answer">{prediction.task === "regression" ? number(prediction.value, 6) : prediction.answer}</div>
      {prediction.bounds && <BoundsView bounds={prediction.bounds} level={level} />}
      {prediction.scores.length > 0 && <Bars label={prediction.output} max={1} bars={prediction.scores.slice(0, 12).map((score) => ({ label: score.label, value: score.value, text: percent(score.value) }))} />}
    </div>
  );
}

function TryField({ field, value, onChange }: { field: FieldSpec; value: string; onChange: (value: string) => void }) {
  const t = useText();
  const { distribution } = field;
  const at = positionOf(field.kind, value);
  const wrong = field.kind === "numeric" && value.trim() !== "" && !Number.isFinite(Number(value));
  const id = `try-${field.name}`;
  const edges = distribution?.edges ?? [];
  return (
    <div className="field try-field">
      <label htmlFor={id} className="clip" title={field.name}>
        {field.name}
      </label>
      {field.choices.length > 0 && field.choices.length <= 60 ? (
        <select id={id} className="select" value={value} onChange={(event) => onChange(event.target.value)}>
          <option value="">{t("try.missing")}</option>
          {!field.choices.includes(value) && value !== "" && <option value={value}>{value}</option>}
          {field.choices.map((choice) => (
            <option key={choice} value={choice}>
              {choice}
            </option>
          ))}
        </select>
      ) : field.kind === "text" ? (
        <textarea id={id} className="input" rows={2} value={value} onChange={(event) => onChange(event.target.value)} />
      ) : (
        <input id={id} className="input" aria-invalid={wrong || undefined} value={value} placeholder={t("try.missing")} onChange={(event) => onChange(event.target.value)} />
      )}
      {distribution?.kind === "numeric" && edges.length > 2 && field.kind !== "boolean" && (
        <>
          <Histogram label={t("distribution.of", { column: field.name })} counts={densities(edges, distribution.shares ?? [])} edges={evenEdges(edges)} at={at} width={150} height={26} />
          <input
            type="range"
            aria-label={field.name}
            min={edges[0]}
            max={edges.at(-1)}
            step={((edges.at(-1) ?? 1) - (edges[0] ?? 0)) / 200 || 1}
            value={at ?? edges[0]}
            onChange={(event) => {
              const moved = Number(event.target.value);
              onChange(field.kind === "datetime" ? timeText(moved) : String(Number(moved.toPrecision(5))));
            }}
          />
        </>
      )}
      {distribution?.frequencies && field.choices.length > 1 && (
        <span className="small faint clip">
          {field.choices
            .slice(0, 3)
            .map((choice) => `${choice} ${percent(distribution.frequencies?.[choice], 0)}`)
            .join(" · ")}
        </span>
      )}
    </div>
  );
}

const BARS = 24;

function evenEdges(edges: readonly number[]): number[] {
  const [low, high] = [edges[0] ?? 0, edges.at(-1) ?? 1];
  return Array.from({ length: BARS + 1 }, (_, index) => low + ((high - low) * index) / BARS);
}

/** Convert the shares of uneven (quantile) bins to heights of even bins. */
function densities(edges: readonly number[], shares: readonly number[]): number[] {
  const even = evenEdges(edges);
  return Array.from({ length: BARS }, (_, bar) => {
    const [low, high] = [even[bar] ?? 0, even[bar + 1] ?? 0];
    return shares.reduce((sum, share, index) => {
      const [from, to] = [edges[index] ?? 0, edges[index + 1] ?? 0];
      const overlap = Math.max(0, Math.min(high, to) - Math.max(low, from));
      return sum + (to > from ? (share * overlap) / (to - from) : 0);
    }, 0);
  }).map((value) => Math.round(value * 10_000));
}

function Contributions({ explanation, predictions, manifest }: { explanation: Explanation; predictions: readonly OutputPrediction[]; manifest: Manifest }) {
  const t = useText();
  const output = manifest.outputs[0];
  const own = output ? explanation.explanations[0]?.[output.name] : undefined;
  if (!output || !own) return null;
  const label = predictions[0]?.answer;
  const unit = output.task === "multiclass" ? Math.max(0, (output.labels ?? []).indexOf(label ?? "")) : 0;
  const sign = output.task === "binary" && label === output.labels?.[0] ? -1 : 1;
  const bars = Object.entries(own)
    .map(([column, values]) => ({ label: column, value: sign * (values[unit] ?? values[0] ?? 0) }))
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value))
    .slice(0, 10)
    .map((bar) => ({ ...bar, text: `${bar.value > 0 ? "+" : ""}${number(bar.value === 0 ? 0 : bar.value, 3)}` }));
  return (
    <Card title={output.task === "regression" ? t("try.why.value") : t("try.why", { answer: label ?? "" })} level={3}>
      {bars.every((bar) => bar.value === 0) ? (
        <p className="muted">{t("try.why.typical")}</p>
      ) : (
        <>
          <Bars label={t("try.contributions")} bars={bars} />
          <p className="small faint">{t("try.contributions")}</p>
        </>
      )}
    </Card>
  );
}

function Requests({ path, row, level }: { path: string; row: unknown; level: number | false | null }) {
  const t = useText();
  const [asked, setKind] = useInAddress("as", "curl");
  const kind = asked === "python" || asked === "javascript" ? asked : "curl";
  const texts = requests(window.location.origin, path, row, level);
  return (
    <Card
      title={t("try.request")}
      level={3}
      actions={
        <>
          <Segment
            label={t("try.request")}
            value={kind}
            choices={[
              { value: "curl", label: "curl" },
              { value: "python", label: "Python" },
              { value: "javascript", label: "JavaScript" },
            ]}
            onChange={setKind}
          />
          <CopyButton text={texts[kind]} />
        </>
      }
    >
      <pre className="code" tabIndex={0} aria-label={t("try.request")}>
        {texts[kind]}
      </pre>
    </Card>
  );
}
