/** A table of what really happened, read into the items of a feedback request. */

import type { Manifest } from "../api/models";
import type { Outcome } from "../api/types";
import type { Key, Values } from "../i18n";

type Output = Manifest["outputs"][number];

export interface TruthProblem {
  /** The table's row, the first below the header being 1; null where it is about all of it. */
  row: number | null;
  text: Key;
  values?: Values;
}

export interface TruthTable {
  items: Outcome[];
  /** Each item's row in the table. */
  rows: number[];
  problems: TruthProblem[];
}

const ID = /^[A-Za-z0-9._:-]{1,64}$/;
const NAMES = { id: ["id", "prediction_id", "x-prediction-id"], row: ["row"], version: ["version"], predicted: ["predicted", "prediction"], output: ["output", "target"], truth: ["truth", "actual"] };
type Role = keyof typeof NAMES;

/** A typed or read text as the truth of an output; undefined where it cannot be one. */
export function truthOf(output: Output, text: string): Outcome["truth"] | undefined {
  if (output.task === "multilabel") return (output.labels ?? []).includes(text) ? [text] : text.split(/[|;]/).map((one) => one.trim()).filter(Boolean);
  if (output.task !== "regression") return text;
  const numbers = text.split(/[|;]/).map((one) => Number(decimal(one.trim())));
  if (!numbers.every(Number.isFinite)) return undefined;
  return numbers.length === 1 ? numbers[0] : numbers;
}

/** A comma between digits is a decimal mark. */
const decimal = (text: string): string => (text === "" ? "NaN" : /^[+-]?\d+,\d+$/.test(text) ? text.replace(",", ".") : text);

/** Read a table's cells, the header first. A row without a truth is left out: it is not known yet. */
export function readTruths(cells: readonly (readonly string[])[], outputs: readonly Output[]): TruthTable {
  const table: TruthTable = { items: [], rows: [], problems: [] };
  const header = (cells[0] ?? []).map((name) => name.replace("\uFEFF", "").trim());
  const at = Object.fromEntries(Object.entries(NAMES).map(([role, names]) => [role, header.findIndex((name) => names.includes(name.toLowerCase()))])) as Record<Role, number>;
  const columns = truthColumns(header, at, outputs);
  if (at.id < 0) table.problems.push({ row: null, text: "truth.no.id" });
  if (columns.length === 0) table.problems.push({ row: null, text: "truth.no.truth", values: { names: outputs.map((output) => output.name).join(", ") } });
  if (at.predicted >= 0 !== at.version >= 0) table.problems.push({ row: null, text: "truth.together" });
  if (at.predicted >= 0 && columns.length > 1) table.problems.push({ row: null, text: "truth.one.target" });
  if (table.problems.length > 0) return table;
  cells.slice(1).forEach((line, index) => readRow(table, index + 1, (role) => (line[at[role]] ?? "").trim(), columns.map(({ place, output }) => ({ text: (line[place] ?? "").trim(), output })), outputs));
  if (table.items.length === 0 && table.problems.length === 0) table.problems.push({ row: null, text: "truth.empty" });
  return table;
}

interface TruthColumn {
  place: number;
  output: Output | null; // null: the row's own column says which
}

/** Columns with truths: `truth`, or one named as each target. */
function truthColumns(header: readonly string[], at: Readonly<Record<Role, number>>, outputs: readonly Output[]): TruthColumn[] {
  if (at.truth >= 0) {
    const only = outputs.length === 1 ? (outputs[0] ?? null) : null;
    return only !== null || at.output >= 0 ? [{ place: at.truth, output: only }] : [];
  }
  return outputs.map((output) => ({ place: header.indexOf(output.name), output })).filter((column) => column.place >= 0);
}

function readRow(table: TruthTable, row: number, cell: (role: Role) => string, truths: readonly { text: string; output: Output | null }[], outputs: readonly Output[]): void {
  const say = (text: Key, values?: Values): void => void table.problems.push({ row, text, ...(values && { values }) });
  const [place, version] = [cell("row"), cell("version")];
  for (const { text, output: fixed } of truths) {
    if (text === "") continue;
    const output = fixed ?? outputs.find((one) => one.name === cell("output"));
    const truth = output && truthOf(output, text);
    const predicted = output && cell("predicted") !== "" ? truthOf(output, cell("predicted")) : undefined;
    if (!ID.test(cell("id"))) return say("truth.bad.id", { id: cell("id").slice(0, 40) });
    if (output === undefined) return say("truth.bad.output", { name: cell("output").slice(0, 40) });
    if (truth === undefined) return say("truth.bad.number", { value: text.slice(0, 40) });
    if (!/^\d*$/.test(place) || !/^\d*$/.test(version)) return say("truth.bad.place");
    if ((predicted === undefined) !== (version === "")) return say("truth.bad.said");
    const said = predicted === undefined ? {} : { predicted, version: Number(version) };
    table.items.push({ id: cell("id"), row: Number(place || 0), output: output.name, truth, ...said });
    table.rows.push(row);
  }
}
