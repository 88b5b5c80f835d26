import type { ReactNode } from "react";
import { useId, useState } from "react";

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
  /** Focus the field when it appears, because a click opened it. */
  focused?: boolean;
}

/** A number field that reports only complete numbers, so `1e-` can become `1e-3`. */
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
