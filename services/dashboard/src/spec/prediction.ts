/** A model's form fields and predictions, read from its manifest. */

import type { Distribution, Manifest, ManifestColumn } from "../api/models";

export interface FieldSpec {
  name: string;
  kind: string;
  /** A categorical column's values, the most frequent first. */
  choices: string[];
  distribution: Distribution | null;
  /** The value in a typical row of the training data. */
  typical: string;
}

const text = (value: unknown): string => (value === null || value === undefined ? "" : String(value));

/** The raw columns, each once: a column may have several encodings, as numbers have by default. */
export const columnsOf = (manifest: Manifest): ManifestColumn[] => [...new Map(manifest.encoder.columns.map((column) => [column.name, column])).values()];

/** One field per raw column, filled from a typical row. */
export function fieldsOf(manifest: Manifest): FieldSpec[] {
  return columnsOf(manifest).map(({ name, kind }) => {
    const distribution = manifest.training_distribution[name] ?? null;
    const choices = Object.entries(distribution?.frequencies ?? {})
      .sort((a, b) => b[1] - a[1])
      .map(([label]) => label);
    return { name, kind, choices, distribution, typical: typicalOf(kind, distribution, choices) };
  });
}

function typicalOf(kind: string, distribution: Distribution | null, choices: readonly string[]): string {
  if (choices[0] !== undefined) return choices[0];
  if (distribution?.kind === "numeric" && distribution.edges && distribution.edges.length > 0) {
    const middle = distribution.median ?? distribution.edges[Math.floor(distribution.edges.length / 2)] ?? 0;
    if (kind === "datetime") return timeText(middle);
    if (kind === "boolean") return middle >= 0.5 ? "true" : "false";
    return text(Number(middle.toPrecision(6)));
  }
  return "";
}

/** Seconds since 1970 as the server reads a time. */
export const timeText = (seconds: number): string => new Date(Math.round(seconds) * 1000).toISOString().replace(".000Z", "Z");

/** What a field's text says on the axis of its distribution; null where it says nothing. */
export function positionOf(kind: string, value: string): number | null {
  if (value.trim() === "") return null;
  const position = kind === "datetime" ? Date.parse(value) / 1000 : Number(value);
  return Number.isFinite(position) ? position : null;
}

/** The typed values as the request's JSON; an empty field is a missing value. */
export function rowOf(fields: readonly FieldSpec[], typed: Readonly<Record<string, string>>): Record<string, unknown> {
  return Object.fromEntries(
    fields.map(({ name, kind }) => {
      const value = (typed[name] ?? "").trim();
      if (value === "") return [name, null];
      if (kind === "numeric") return [name, Number.isFinite(Number(value)) ? Number(value) : value];
      if (kind === "boolean" && (value === "true" || value === "false")) return [name, value === "true"];
      return [name, value];
    }),
  );
}

export interface OutputPrediction {
  output: string;
  task: string;
  /** The most likely label, or the number. */
  answer: string;
  value: number | null;
  scores: { label: string; value: number }[];
  /** Where a level was asked for: the interval, or the set of labels. */
  bounds?: { low: number; high: number } | { labels: string[] };
}

/** What a row's answer has beside an output's prediction, where a level was asked for. */
function boundsOf(name: string, prediction: Record<string, unknown>): OutputPrediction["bounds"] {
  const [low, high, labels] = [prediction[`${name}_low`], prediction[`${name}_high`], prediction[`${name}_set`]];
  if (Array.isArray(labels)) return { labels: labels.map(text) };
  const ends = [low, high].map((end) => Number(Array.isArray(end) ? end[0] : end));
  return low === undefined || high === undefined ? undefined : { low: ends[0] ?? NaN, high: ends[1] ?? NaN };
}

/** Read one row's prediction with the outputs named in the manifest. */
export function readPrediction(manifest: Manifest, prediction: unknown): OutputPrediction[] {
  const named = prediction !== null && typeof prediction === "object" && !Array.isArray(prediction) ? (prediction as Record<string, unknown>) : null;
  return manifest.outputs.map((output) => {
    const bounds = named ? boundsOf(output.name, named) : undefined;
    return { ...readOutput(output, named ? named[output.name] : prediction), ...(bounds && { bounds }) };
  });
}

function readOutput(output: Manifest["outputs"][number], own: unknown): OutputPrediction {
  const numbers = (Array.isArray(own) ? own.flat(3) : [own]).map(Number);
  const labels = output.labels ?? [];
  const first = numbers[0] ?? null;
  if (output.task === "regression") return { output: output.name, task: output.task, answer: text(first), value: first, scores: [] };
  if (output.task === "binary" && numbers.length === 1 && first !== null) {
    const [no, yes] = [labels[0] ?? "0", labels[1] ?? "1"];
    const scores = [
      { label: yes, value: first },
      { label: no, value: 1 - first },
    ].sort((a, b) => b.value - a.value);
    return { output: output.name, task: output.task, answer: scores[0]?.label ?? "", value: first, scores };
  }
  const scores = numbers.map((value, index) => ({ label: labels[index] ?? String(index), value }));
  const sorted = [...scores].sort((a, b) => b.value - a.value);
  const answer = output.task === "multilabel" ? scores.filter((score) => score.value >= 0.5).map((score) => score.label).join(", ") : (sorted[0]?.label ?? "");
  return { output: output.name, task: output.task, answer, value: null, scores: sorted };
}

/** The request for the shell, Python and JavaScript. */
export function requests(origin: string, path: string, row: unknown, interval: number | false | null = null): { curl: string; python: string; javascript: string } {
  const asked = { instances: [row], ...(interval !== null && { interval }) };
  const body = JSON.stringify(asked);
  const quoted = body.replaceAll("'", "'\\''");
  return {
    curl: `curl -sS '${origin}${path}' \\\n  -H "Authorization: Bearer $FITSERVE_API_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`,
    python: [
      "import json, os, urllib.request",
      "",
      `body = json.loads(${pythonText(body)})`,
      "request = urllib.request.Request(",
      `    ${pythonText(origin + path)},`,
      "    json.dumps(body).encode(),",
      '    {"Authorization": "Bearer " + os.environ["FITSERVE_API_KEY"], "Content-Type": "application/json"},',
      ")",
      'print(json.load(urllib.request.urlopen(request))["predictions"])',
    ].join("\n"),
    javascript: [
      `const answer = await fetch(${JSON.stringify(origin + path)}, {`,
      '  method: "POST",',
      "  headers: {",
      "    Authorization: `Bearer ${process.env.FITSERVE_API_KEY}`,",
      '    "Content-Type": "application/json",',
      "  },",
      `  body: JSON.stringify(${JSON.stringify(asked, null, 2).replaceAll("\n", "\n  ")}),`,
      "});",
      "console.log((await answer.json()).predictions);",
    ].join("\n"),
  };
}

/** JSON's escapes are Python's too. */
const pythonText = (value: string): string => JSON.stringify(value);
