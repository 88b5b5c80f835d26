import type { ReactNode } from "react";
import { useEffect, useRef, useState } from "react";
import { Button as AriaButton } from "react-aria-components";
import type { ApiError, ProblemItem } from "../api/client";
import { currentLanguage, named, useText, type Translate } from "../i18n";
import { useSentence } from "../i18n/sentences";

export * from "./inputs";

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

/** Content that may be wider than the screen; it scrolls on its own, with the keyboard too. */
export function Scroll({ label, children }: { label?: string; children: ReactNode }) {
  const t = useText();
  const host = useRef<HTMLDivElement>(null);
  const [wide, setWide] = useState(false);
  useEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const watch = new ResizeObserver(() => setWide(element.scrollWidth > element.clientWidth));
    watch.observe(element);
    if (element.firstElementChild) watch.observe(element.firstElementChild);
    return () => watch.disconnect();
  }, []);
  return (
    <div ref={host} className="table-wrap" {...(wide && { tabIndex: 0, role: "group", "aria-label": label ?? t("table.wide") })}>
      {children}
    </div>
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

function positionOf(item: ProblemItem, t: Translate): string[] {
  return [
    item.row !== undefined ? t("problem.row", { n: item.row }) : "",
    item.line !== undefined ? t("problem.line", { n: item.line }) : "",
    item.column !== undefined ? t("problem.column", { n: item.column }) : "",
    item.pointer ?? "",
    item.parameter ?? "",
  ].filter(Boolean);
}

const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value)).slice(0, 160);

/** What kind of problem it is, for a page whose language is not the detail's; null where that says nothing new. */
function titleOf(item: ProblemItem & { type?: string }, t: Translate): string | null {
  const slug = /^urn:fitserve:problem:([a-z-]+)$/.exec(item.type ?? "")?.[1];
  return slug === undefined || currentLanguage() === "en" ? null : named("problem.of", slug, t);
}

/** One problem: what, where, received, expected, and the fix. */
export function ProblemLine({ item }: { item: ProblemItem }) {
  const t = useText();
  const say = useSentence();
  const position = positionOf(item, t);
  const detail = say(item.detail);
  const kind = titleOf(item, t);
  return (
    <div className="break">
      <div>
        {position.length > 0 && <code className="faint">{position.join(" · ")} </code>}
        {kind !== null && detail === item.detail ? (
          <>
            <strong>{kind}</strong>
            <div className="small" lang="en">
              {detail}
            </div>
          </>
        ) : (
          detail
        )}
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
              {t("problem.expected")} {say(item.expected)}
            </>
          )}
        </div>
      )}
      {item.fix !== undefined && <div className="small">→ {say(item.fix)}</div>}
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

export function Stat({ name, value, note }: { name: string; value: ReactNode; note?: ReactNode }) {
  return (
    <div className="stat">
      <span className="name">{name}</span>
      <span className="value">{value}</span>
      {note && <span className="small faint">{note}</span>}
    </div>
  );
}

/** Copy text; return whether it was. The clipboard's own interface is there only over https and on this machine. */
async function copyText(text: string): Promise<boolean> {
  if ("clipboard" in navigator) {
    return navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    );
  }
  const held = document.createElement("textarea");
  held.value = text;
  document.body.append(held);
  held.select();
  const copied = document.execCommand("copy");
  held.remove();
  return copied;
}

/** Copies text and confirms it for a moment. */
export function CopyButton({ text, label }: { text: string; label?: string }) {
  const t = useText();
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <Button small onPress={() => void copyText(text).then(setDone)}>
      {done ? t("copied") : (label ?? t("copy"))}
    </Button>
  );
}
