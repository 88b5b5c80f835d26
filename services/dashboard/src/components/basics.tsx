import type { ReactNode } from "react";
import { useEffect, useId, useState } from "react";
import { Button as AriaButton } from "react-aria-components";
import type { ApiError, ProblemItem } from "../api/client";
import { useText } from "../i18n";

interface ButtonProps {
  children: ReactNode;
  onPress?: () => void;
  tone?: "primary" | "danger" | "quiet";
  small?: boolean;
  icon?: boolean;
  label?: string | undefined;
  disabled?: boolean;
  type?: "button" | "submit";
}

export function Button({ children, onPress, tone, small, icon, label, disabled, type = "button" }: ButtonProps) {
  const names = ["button", tone, small && "small", icon && "icon"].filter(Boolean).join(" ");
  return (
    <AriaButton
      className={names}
      type={type}
      isDisabled={disabled ?? false}
      {...(onPress && { onPress })}
      {...(label && { "aria-label": label })}
    >
      {children}
    </AriaButton>
  );
}

interface CardProps {
  title?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  bare?: boolean;
  level?: 2 | 3;
  flat?: boolean;
}

export function Card({ title, actions, children, bare, level = 2, flat }: CardProps) {
  const Heading = level === 2 ? "h2" : "h3";
  return (
    <section className={flat ? "card flat" : "card"}>
      {(title !== undefined || actions !== undefined) && (
        <header>
          <Heading>{title}</Heading>
          {actions !== undefined && <div className="row tight">{actions}</div>}
        </header>
      )}
      {bare ? children : <div className="body">{children}</div>}
    </section>
  );
}

export type Tone = "good" | "warn" | "bad" | "info" | "plain";

export function Badge({ tone = "plain", live, children }: { tone?: Tone; live?: boolean; children: ReactNode }) {
  return (
    <span className={`badge ${tone} ${live ? "live" : ""}`}>
      {live && <span className="dot" aria-hidden="true" />}
      {children}
    </span>
  );
}

export function Notice({ tone = "info", children }: { tone?: Tone; children: ReactNode }) {
  return <div className={`notice ${tone}`}>{children}</div>;
}

export function Loading() {
  const t = useText();
  return (
    <div className="row muted" role="status">
      <span className="spinner" aria-hidden="true" /> {t("loading")}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

function where(item: ProblemItem): string[] {
  return [
    item.row !== undefined ? `row ${item.row}` : "",
    item.line !== undefined ? `line ${item.line}` : "",
    item.column !== undefined ? `column ${item.column}` : "",
    item.pointer ?? "",
    item.parameter ?? "",
  ].filter(Boolean);
}

const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value)).slice(0, 160);

/** One problem: what, where, received, expected, and how to mend it. */
export function ProblemLine({ item }: { item: ProblemItem }) {
  const t = useText();
  const places = where(item);
  return (
    <div className="break">
      <div>
        {places.length > 0 && <code className="faint">{places.join(" · ")} </code>}
        {item.detail}
      </div>
      {(item.received !== undefined || item.expected !== undefined) && (
        <div className="small muted">
          {item.received !== undefined && (
            <>
              {t("problem.received")} <code>{shown(item.received)}</code>{" "}
            </>
          )}
          {item.expected !== undefined && (
            <>
              {t("problem.expected")} {item.expected}
            </>
          )}
        </div>
      )}
      {item.fix !== undefined && <div className="small">→ {item.fix}</div>}
    </div>
  );
}

export function ErrorView({ error }: { error: unknown }) {
  const problem = (error as Partial<ApiError>).problem;
  if (!problem) return <Notice tone="bad">{String((error as Error).message)}</Notice>;
  return (
    <div role="alert">
      <Notice tone="bad">
        <ProblemLine item={problem} />
        {problem.errors && problem.errors.length > 0 && (
          <ul>
            {problem.errors.map((item, index) => (
              <li key={index}>
                <ProblemLine item={item} />
              </li>
            ))}
          </ul>
        )}
        {problem.status >= 500 && problem.request_id && <small className="faint">{problem.request_id}</small>}
      </Notice>
    </div>
  );
}

export function Field({ label, hint, wrong, children }: FieldProps) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
      {hint && <span className="hint">{hint}</span>}
      {wrong && <span className="wrong">{wrong}</span>}
    </div>
  );
}

interface FieldProps {
  label: ReactNode;
  hint?: ReactNode;
  wrong?: ReactNode;
  children: (id: string) => ReactNode;
}

export interface Choice {
  value: string;
  label: string;
}

interface SelectProps {
  label: string;
  value: string;
  choices: readonly (Choice | string)[];
  onChange: (value: string) => void;
  hint?: string;
  small?: boolean;
  hideLabel?: boolean;
}

export function Select({ label, value, choices, onChange, hint, small, hideLabel }: SelectProps) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id} className={hideLabel ? "visually-hidden" : ""}>
        {label}
      </label>
      <select
        id={id}
        className={small ? "select small" : "select"}
        value={value}
        onChange={(event) => onChange(event.target.value)}
      >
        {choices.map((choice) => {
          const { value: own, label: text } = typeof choice === "string" ? { value: choice, label: choice } : choice;
          return (
            <option key={own} value={own}>
              {text}
            </option>
          );
        })}
      </select>
      {hint && <span className="hint">{hint}</span>}
    </div>
  );
}

interface SegmentProps<T extends string> {
  label: string;
  value: T;
  choices: readonly { value: T; label: string }[];
  onChange: (value: T) => void;
}

export function Segment<T extends string>({ label, value, choices, onChange }: SegmentProps<T>) {
  return (
    <div className="segment" role="group" aria-label={label}>
      {choices.map((choice) => (
        <button
          key={choice.value}
          type="button"
          aria-pressed={choice.value === value}
          onClick={() => onChange(choice.value)}
        >
          {choice.label}
        </button>
      ))}
    </div>
  );
}

export function Check({ label, checked, onChange }: { label: ReactNode; checked: boolean; onChange: (on: boolean) => void }) {
  return (
    <label className="check">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.target.checked)} />
      <span>{label}</span>
    </label>
  );
}

interface NumberInputProps {
  id?: string;
  value: number | null;
  onChange: (value: number | null) => void;
  placeholder?: string;
  invalid?: boolean;
  label?: string;
  small?: boolean;
  /** Takes the focus when it comes: it was asked for by a click. */
  focused?: boolean;
}

/** A number as typed: it is told once it reads as a number, so that `1e-` can become `1e-3`. */
export function NumberInput({ id, value, onChange, placeholder, invalid, label, small, focused }: NumberInputProps) {
  const [text, setText] = useState<string | null>(null);
  const typed = text ?? (value === null ? "" : String(value));
  const broken = typed.trim() !== "" && !Number.isFinite(Number(typed));
  return (
    <input
      id={id}
      className={small ? "input small num" : "input num"}
      autoFocus={focused}
      inputMode="decimal"
      aria-label={label}
      aria-invalid={broken || invalid || undefined}
      placeholder={placeholder}
      value={typed}
      onChange={(event) => {
        const next = event.target.value;
        setText(next);
        if (next.trim() === "") onChange(null);
        else if (Number.isFinite(Number(next))) onChange(Number(next));
      }}
      onBlur={() => setText(null)}
    />
  );
}

export function Stat({ name, value, note }: { name: string; value: ReactNode; note?: ReactNode }) {
  return (
    <div className="stat">
      <span className="name">{name}</span>
      <span className="value">{value}</span>
      {note && <span className="small faint">{note}</span>}
    </div>
  );
}

/** Copies text, and says so for a moment. */
export function CopyButton({ text, label }: { text: string; label?: string }) {
  const t = useText();
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <Button small onPress={() => void navigator.clipboard.writeText(text).then(() => setDone(true))}>
      {done ? t("copied") : (label ?? t("copy"))}
    </Button>
  );
}
