import { useId, type ReactNode } from "react";
import { useText } from "../i18n";
import type { Argument, Catalogue, ClassInfo } from "../spec/catalogue";
import type { Json, JsonObject } from "../spec/document";
import { NumberInput } from "./basics";

interface FormProps {
  catalogue: Catalogue;
  info: ClassInfo;
  args: JsonObject;
  onChange: (args: JsonObject) => void;
  /** Shown directly; the others are behind "more". */
  first?: readonly string[];
}

const isObject = (value: unknown): value is JsonObject => value !== null && typeof value === "object" && !Array.isArray(value);

/** A form generated from the spec's JSON Schema: one field for each argument of a Keras class. */
export function ArgumentForm({ catalogue, info, args, onChange, first }: FormProps) {
  const t = useText();
  const shown = info.arguments.filter((one) => !first || first.includes(one.name) || args[one.name] !== undefined);
  const more = info.arguments.filter((one) => !shown.includes(one));
  const field = (argument: Argument): ReactNode => (
    <ArgumentField
      key={argument.name}
      catalogue={catalogue}
      argument={argument}
      value={args[argument.name]}
      onChange={(value) => {
        const next = Object.fromEntries(Object.entries(args).filter(([name]) => name !== argument.name));
        onChange(value === undefined ? next : { ...args, [argument.name]: value });
      }}
    />
  );
  return (
    <div className="stack tight">
      <div className="fields">{shown.map(field)}</div>
      {more.length > 0 && (
        <details>
          <summary className="small">{t("form.more", { n: more.length })}</summary>
          <div className="fields">{more.map(field)}</div>
        </details>
      )}
    </div>
  );
}

interface FieldProps {
  catalogue: Catalogue;
  argument: Argument;
  value: Json | undefined;
  onChange: (value: Json | undefined) => void;
}

export function ArgumentField({ catalogue, argument, value, onChange }: FieldProps) {
  const id = useId();
  const fallback = argument.default === undefined || argument.default === null ? "" : shortly(argument.default);
  const wide = (argument.type === "component" || argument.type === "number-or-component") && isObject(value);
  return (
    <div className={wide ? "field wide" : "field"}>
      <label htmlFor={id} title={argument.description}>
        {argument.name.replaceAll("_", " ")}
      </label>
      <Input id={id} catalogue={catalogue} argument={argument} value={value} onChange={onChange} fallback={fallback} />
    </div>
  );
}

function shortly(value: unknown): string {
  if (typeof value === "string") return value;
  if (isObject(value)) return Object.keys(value)[0] ?? "";
  return JSON.stringify(value);
}

function Input({ id, catalogue, argument, value, onChange, fallback }: FieldProps & { id: string; fallback: string }) {
  const t = useText();
  const unset = fallback ? t("form.default", { value: fallback }) : t("form.none");
  if (argument.type === "boolean") {
    return (
      <select id={id} className="select" value={value === undefined ? "" : String(value)} onChange={(event) => onChange(event.target.value === "" ? undefined : event.target.value === "true")}>
        <option value="">{unset}</option>
        <option value="true">true</option>
        <option value="false">false</option>
      </select>
    );
  }
  if (argument.type === "choice") {
    return (
      <select id={id} className="select" value={typeof value === "string" ? value : ""} onChange={(event) => onChange(event.target.value || undefined)}>
        {(!argument.required || value === undefined) && <option value="">{unset}</option>}
        {argument.choices.map((choice) => (
          <option key={choice} value={choice}>
            {choice}
          </option>
        ))}
      </select>
    );
  }
  if (argument.type === "component" || argument.type === "number-or-component") {
    return <ComponentInput id={id} catalogue={catalogue} argument={argument} value={value} onChange={onChange} fallback={fallback} unset={unset} />;
  }
  if (argument.type === "integer" || argument.type === "number") {
    const number = typeof value === "number" ? value : null;
    const low = number !== null && argument.minimum !== null && number < argument.minimum;
    const high = number !== null && argument.maximum !== null && number > argument.maximum;
    return <NumberInput id={id} value={number} placeholder={fallback} invalid={low || high} onChange={(next) => onChange(next ?? undefined)} />;
  }
  return <JsonInput id={id} value={value} placeholder={fallback} onChange={onChange} />;
}

/** A field for lists and the like, typed as JSON; only valid JSON is reported. */
function JsonInput({ id, value, placeholder, onChange }: { id: string; value: Json | undefined; placeholder: string; onChange: (value: Json | undefined) => void }) {
  const text = value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
  return (
    <input
      id={id}
      key={text}
      className="input mono"
      defaultValue={text}
      placeholder={placeholder}
      onBlur={(event) => {
        const typed = event.target.value.trim();
        if (typed === text) return;
        if (typed === "") {
          onChange(undefined);
          return;
        }
        try {
          onChange(JSON.parse(typed) as Json);
        } catch {
          onChange(typed);
        }
      }}
    />
  );
}

const START: Record<string, JsonObject> = {
  ExponentialDecay: { initial_learning_rate: 0.1, decay_steps: 100, decay_rate: 0.95 },
  InverseTimeDecay: { initial_learning_rate: 0.1, decay_steps: 100, decay_rate: 0.5 },
  PolynomialDecay: { initial_learning_rate: 0.1, decay_steps: 1000 },
  CosineDecay: { initial_learning_rate: 0.01, decay_steps: 1000 },
  CosineDecayRestarts: { initial_learning_rate: 0.01, first_decay_steps: 500 },
  PiecewiseConstantDecay: { boundaries: [500], values: [0.01, 0.001] },
  L1: { l1: 0.001 },
  L2: { l2: 0.001 },
  L1L2: { l1: 0.001, l2: 0.001 },
};

/** A field for a Keras class: its name, with its own arguments below. */
function ComponentInput({ id, catalogue, argument, value, onChange, fallback, unset }: FieldProps & { id: string; fallback: string; unset: string }) {
  const t = useText();
  const group = argument.group ?? "";
  const classes = catalogue.classes(group);
  const name = typeof value === "string" ? value : isObject(value) ? (Object.keys(value)[0] ?? "") : "";
  const info = classes.find((one) => one.name.toLowerCase() === name.replaceAll("_", "").toLowerCase());
  const inner = isObject(value) ? value[name] : undefined;
  const first = info?.arguments[0]?.name;
  const args: JsonObject = isObject(inner) ? inner : inner !== undefined && inner !== null && first ? { [first]: inner } : {};
  const number = argument.type === "number-or-component";
  const plain = number && (typeof value === "number" || value === undefined);
  return (
    <div className="stack tight">
      <div className="row tight nowrap-row">
        <select
          id={id}
          className="select"
          value={plain ? "" : (info?.name ?? "")}
          onChange={(event) => {
            const chosen = event.target.value;
            onChange(chosen ? { [chosen]: START[chosen] ?? {} } : undefined);
          }}
        >
          <option value="">{number ? t("form.number") : unset}</option>
          {classes.map((one) => (
            <option key={one.name} value={one.name}>
              {one.name}
            </option>
          ))}
        </select>
        {plain && <NumberInput label={argument.name} value={typeof value === "number" ? value : null} placeholder={fallback} onChange={(next) => onChange(next ?? undefined)} />}
      </div>
      {info && !plain && info.arguments.length > 0 && (
        <div className="nested">
          <ArgumentForm catalogue={catalogue} info={info} args={args} onChange={(next) => onChange(Object.keys(next).length > 0 ? { [info.name]: next } : info.name)} />
        </div>
      )}
    </div>
  );
}
