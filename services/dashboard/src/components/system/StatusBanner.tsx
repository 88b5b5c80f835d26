import { Link } from "react-router";
import type { ConditionInfo, SystemInfo } from "../../api/types";
import { bytes, number, percent, seconds } from "../../format";
import { useText, type Key, type Translate } from "../../i18n";
import { en } from "../../i18n/en";
import { Notice, type Tone } from "../basics";

const TONES: Record<string, Tone> = { good: "good", warning: "warn", critical: "bad" };

/** Where a person goes to mend it. */
function placeOf({ name, figures }: ConditionInfo): string | null {
  const model = figures["model"];
  if (typeof model === "string") return `/models/${encodeURIComponent(model)}?tab=live`;
  if (["no_worker", "queue_old"].includes(name)) return "/runs?state=queued";
  if (name === "runs_failing") return "/runs?state=failed";
  if (/^(deliveries|webhooks|automations)_/.test(name)) return "/automations";
  return name === "disk_full" ? "/system?tab=storage" : null;
}

function shown(name: string, value: unknown, t: Translate): string | number {
  if (typeof value !== "number") return name === "kind" ? t(`process.${String(value)}` as Key) : String(value);
  if (name === "seconds") return seconds(value);
  if (name === "share") return percent(value);
  if (name === "bytes") return bytes(value);
  return number(value, 3);
}

/** What is wrong, in the page's language; a rule that these pages do not know yet says it in the server's words. */
export function conditionText(one: Pick<ConditionInfo, "name" | "detail" | "figures">, t: Translate): string {
  const values = Object.fromEntries(Object.entries(one.figures).map(([name, value]) => [name, shown(name, value, t)]));
  const key = one.name === "no_worker" && one.figures["queued"] ? "condition.no_worker.queued" : `condition.${one.name}`;
  return key in en ? t(key as Key, values) : one.detail;
}

/** One banner: green, amber or red, and why. */
export function StatusBanner({ system }: { system: SystemInfo }) {
  const t = useText();
  const alive = system.workers.filter((worker) => worker.alive).length;
  return (
    <div role="status">
      <Notice tone={TONES[system.status] ?? "info"}>
        <strong>{t(`system.status.${system.status}`)}</strong>
        {system.conditions.length === 0 && <div>{t("system.alarm.none", { n: number(alive) })}</div>}
        {system.conditions.length > 0 && (
          <ul>
            {system.conditions.map((one) => {
              const to = placeOf(one);
              return (
                <li key={`${one.name} ${one.subject}`}>
                  {conditionText(one, t)} {to && <Link to={to}>{t("system.look")}</Link>}
                </li>
              );
            })}
          </ul>
        )}
      </Notice>
    </div>
  );
}
