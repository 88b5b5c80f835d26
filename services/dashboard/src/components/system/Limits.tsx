import { useLimits } from "../../api/system";
import { bytes, number } from "../../format";
import { named, useText } from "../../i18n";
import { Card, ErrorView } from "../basics";

/** The limits in force, by the names of their settings. */
export function LimitList() {
  const t = useText();
  const limits = useLimits();
  return (
    <Card title={t("system.limits")}>
      {limits.error && <ErrorView error={limits.error} />}
      <dl className="facts">
        {Object.entries(limits.data ?? {}).map(([name, value]) => (
          <div key={name} className="contents">
            <dt title={name}>{named("limit", name, t)}</dt>
            <dd className="num">{typeof value === "string" ? value : name.endsWith("bytes") ? bytes(value) : number(value)}</dd>
          </div>
        ))}
      </dl>
    </Card>
  );
}
