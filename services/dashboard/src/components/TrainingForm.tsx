import type { Column } from "../api/types";
import { useText } from "../i18n";
import type { Catalogue } from "../spec/catalogue";
import { at, type Json, type JsonObject, type Path } from "../spec/document";
import { ArgumentField, ArgumentForm } from "./ArgumentForm";
import { Card, Check, Field, NumberInput, Select } from "./basics";

interface Props {
  catalogue: Catalogue | null;
  spec: JsonObject;
  columns: readonly Column[];
  /** The spec with all defaults, as the server last had it: what stands where nothing is written. */
  resolved: JsonObject | null;
  onChange: (path: Path, value: Json | undefined) => void;
}

const isObject = (value: unknown): value is JsonObject => value !== null && typeof value === "object" && !Array.isArray(value);

/** Forms for optimizer, decay, batches, stopping, restarts and split; they edit the spec's text. */
export function TrainingForm({ catalogue, spec, columns, resolved, onChange }: Props) {
  const t = useText();
  const training = isObject(spec.training) ? spec.training : {};
  const number = (name: string) => (typeof training[name] === "number" ? training[name] : null);
  const set = (name: string, value: Json | undefined) => onChange(["training", name], value);
  const usual = (name: string, otherwise: string) => {
    const value = at(resolved?.training, [name]);
    return typeof value === "number" ? String(value) : otherwise;
  };
  const stopping = training.early_stopping === undefined ? at(resolved?.training, ["early_stopping"]) : training.early_stopping;
  return (
    <>
      <Card title={t("optimizer")}>
        <OptimizerForm catalogue={catalogue} value={training.optimizer} onChange={(value) => set("optimizer", value)} />
      </Card>
      <Card title={t("training")}>
        <div className="stack">
          <div className="fields">
            <Field label={t("epochs")}>
              {(id) => <NumberInput id={id} value={number("epochs")} placeholder={usual("epochs", "100")} onChange={(value) => set("epochs", value ?? undefined)} />}
            </Field>
            <Field label={t("batch")} hint={t("batch.hint")}>
              {(id) => (
                <input
                  id={id}
                  className="input num"
                  list="batch-sizes"
                  placeholder={usual("batch_size", "32")}
                  value={training.batch_size === undefined ? "" : String(training.batch_size)}
                  onChange={(event) => {
                    const typed = event.target.value.trim();
                    if (typed === "") set("batch_size", undefined);
                    else set("batch_size", Number.isFinite(Number(typed)) ? Number(typed) : typed);
                  }}
                />
              )}
            </Field>
            <Field label={t("restarts")} hint={t("restarts.hint")}>
              {(id) => <NumberInput id={id} value={number("restarts")} placeholder="1" onChange={(value) => set("restarts", value ?? undefined)} />}
            </Field>
            <Field label={t("seed")}>
              {(id) => <NumberInput id={id} value={number("seed")} placeholder="0" onChange={(value) => set("seed", value ?? undefined)} />}
            </Field>
          </div>
          <datalist id="batch-sizes">
            {["1", "16", "32", "64", "128", "256", "full"].map((size) => (
              <option key={size} value={size} />
            ))}
          </datalist>
          <Switched
            catalogue={catalogue}
            label={t("early")}
            definition="EarlyStopping"
            start={{ monitor: "val_loss", patience: 20, restore_best_weights: true }}
            first={["monitor", "patience", "min_delta", "restore_best_weights"]}
            value={stopping}
            onChange={(value) => set("early_stopping", value)}
          />
          <Switched
            catalogue={catalogue}
            label={t("plateau")}
            definition="ReduceLROnPlateau"
            start={{ factor: 0.5, patience: 8 }}
            first={["monitor", "factor", "patience", "min_lr"]}
            value={training.reduce_lr_on_plateau}
            onChange={(value) => set("reduce_lr_on_plateau", value)}
          />
          <Check label={t("balanced")} checked={training.class_weight === "balanced"} onChange={(on) => set("class_weight", on ? "balanced" : undefined)} />
          <SplitForm spec={spec} columns={columns} resolved={resolved} onChange={onChange} />
          {catalogue && (
            <details>
              <summary className="small">{t("loss.metrics")}</summary>
              <div className="fields">
                {catalogue
                  .fields("Training")
                  .filter((field) => ["loss", "label_smoothing", "steps_per_epoch", "shuffle", "warmup", "mixed_precision", "jit_compile"].includes(field.name))
                  .map((field) => (
                    <ArgumentField key={field.name} catalogue={catalogue} argument={field} value={training[field.name]} onChange={(value) => set(field.name, value)} />
                  ))}
              </div>
            </details>
          )}
        </div>
      </Card>
    </>
  );
}

function OptimizerForm({ catalogue, value, onChange }: { catalogue: Catalogue | null; value: Json | undefined; onChange: (value: Json) => void }) {
  const t = useText();
  const name = typeof value === "string" ? value : isObject(value) ? (Object.keys(value)[0] ?? "Adam") : "Adam";
  const inner = isObject(value) ? value[name] : undefined;
  const args: JsonObject = isObject(inner) ? inner : inner !== undefined && inner !== null ? { learning_rate: inner } : {};
  const info = catalogue?.classes("Optimizer").find((one) => one.name.toLowerCase() === name.replaceAll("_", "").toLowerCase()) ?? null;
  const names = catalogue?.classes("Optimizer").map((one) => one.name) ?? [];
  const rate = args.learning_rate;
  return (
    <div className="stack">
      <div className="narrow">
        <Select
          label={t("optimizer")}
          value={info?.name ?? name}
          choices={[...new Set([...names, name])]}
          onChange={(next) => onChange(rate === undefined ? next : { [next]: { learning_rate: rate } })}
        />
      </div>
      {catalogue && info && (
        <ArgumentForm
          catalogue={catalogue}
          info={info}
          args={args}
          first={["learning_rate", "momentum", "nesterov", "beta_1", "weight_decay", "rho"]}
          onChange={(next) => onChange(Object.keys(next).length > 0 ? { [info.name]: next } : info.name)}
        />
      )}
    </div>
  );
}

interface SwitchedProps {
  catalogue: Catalogue | null;
  label: string;
  definition: string;
  start: JsonObject;
  first: readonly string[];
  value: Json | undefined;
  onChange: (value: Json | undefined) => void;
}

/** A callback's switch, and its arguments while it is on. */
function Switched({ catalogue, label, definition, start, first, value, onChange }: SwitchedProps) {
  const on = value !== undefined && value !== null && value !== false;
  const fields = catalogue?.fields(definition) ?? [];
  return (
    <div className="stack tight">
      <Check label={label} checked={on} onChange={(next) => onChange(next ? start : false)} />
      {on && catalogue && fields.length > 0 && (
        <div className="nested">
          <ArgumentForm
            catalogue={catalogue}
            info={{ name: definition, description: "", arguments: fields }}
            args={isObject(value) ? value : {}}
            first={first}
            onChange={(args) => onChange(args)}
          />
        </div>
      )}
    </div>
  );
}

const METHODS = ["random", "stratified", "time", "group", "column"];

function SplitForm({ spec, columns, resolved, onChange }: Omit<Props, "catalogue">) {
  const t = useText();
  const share = (name: string) => {
    const value = at(spec.split, [name]);
    return typeof value === "number" ? value : null;
  };
  const usual = (name: string, otherwise: string) => {
    const value = at(resolved?.split, [name]);
    return typeof value === "number" ? String(value) : otherwise;
  };
  const method = at(spec.split, ["method"]) ?? at(resolved?.split, ["method"]);
  const by = at(spec.split, ["by"]);
  return (
    <details>
      <summary className="small">{t("split")}</summary>
      <div className="fields">
        <Select label={t("split.method")} value={typeof method === "string" ? method : "random"} choices={METHODS} onChange={(next) => onChange(["split", "method"], next)} />
        {typeof method === "string" && ["time", "group", "column"].includes(method) && (
          <Select
            label={t("split.by")}
            value={typeof by === "string" ? by : ""}
            choices={[{ value: "", label: t("form.none") }, ...columns.map((column) => ({ value: column.name, label: column.name }))]}
            onChange={(next) => onChange(["split", "by"], next || undefined)}
          />
        )}
        <Field label={t("split.validation")}>
          {(id) => <NumberInput id={id} value={share("validation")} placeholder={usual("validation", "0.2")} onChange={(value) => onChange(["split", "validation"], value ?? undefined)} />}
        </Field>
        <Field label={t("split.test")}>
          {(id) => <NumberInput id={id} value={share("test")} placeholder={usual("test", "0.1")} onChange={(value) => onChange(["split", "test"], value ?? undefined)} />}
        </Field>
      </div>
    </details>
  );
}
