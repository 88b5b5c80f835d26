import { useEffect, useId, useRef } from "react";
import { useText } from "../i18n";

export interface LineMark {
  line: number;
  tone: "bad" | "warn";
  text: string;
}

interface Props {
  text: string;
  onChange: (text: string) => void;
  marks: readonly LineMark[];
}

/** The spec as YAML in a plain text field, with line numbers and errors marked on their lines. */
export function SpecText({ text, onChange, marks }: Props) {
  const t = useText();
  const id = useId();
  const field = useRef<HTMLTextAreaElement>(null);
  const gutter = useRef<HTMLDivElement>(null);
  const lines = Math.max(12, text.split("\n").length + 1);
  const byLine = new Map(marks.map((mark) => [mark.line, mark]));

  useEffect(() => {
    const element = field.current;
    if (!element) return undefined;
    const follow = () => {
      if (gutter.current) gutter.current.scrollTop = element.scrollTop;
    };
    element.addEventListener("scroll", follow);
    return () => element.removeEventListener("scroll", follow);
  }, []);

  return (
    <div className="spec-text">
      <label className="visually-hidden" htmlFor={id}>
        {t("spec.yaml")}
      </label>
      <div className="gutter" ref={gutter} aria-hidden="true">
        {Array.from({ length: lines }, (_, index) => {
          const mark = byLine.get(index + 1);
          return (
            <div key={index} className={mark?.tone ?? ""} title={mark?.text}>
              {index + 1}
            </div>
          );
        })}
      </div>
      <textarea
        id={id}
        ref={field}
        data-history
        spellCheck={false}
        autoCapitalize="off"
        wrap="off"
        rows={Math.min(34, lines)}
        value={text}
        onChange={(event) => onChange(event.target.value)}
        onKeyDown={(event) => {
          // Tab inserts two spaces in a line's indentation; elsewhere it moves to the next control.
          const { selectionStart: start, selectionEnd: end, value } = event.currentTarget;
          const before = value.slice(value.lastIndexOf("\n", start - 1) + 1, start);
          if (event.key !== "Tab" || event.shiftKey || start !== end || before.trim() !== "" || before === "") return;
          event.preventDefault();
          event.currentTarget.setRangeText("  ", start, end, "end");
          onChange(event.currentTarget.value);
        }}
      />
    </div>
  );
}
