import type { LiveFigure } from "../../api/types";
import { number, percent } from "../../format";
import { useText, type Translate } from "../../i18n";

/** How good predictions were by their ground truth, a line a target. */
export function LiveFigures({ figures }: { figures: readonly LiveFigure[] }) {
  const t = useText();
  return (
    <ul className="plain-list flush" data-testid="live-figures">
      {figures.map((one) => (
        <li key={`${one.version}.${one.output}`}>
          <strong>{one.output}</strong>
          <span className="grow" />
          <span className="num">{qualityText(one, t)}</span>
          <span className="small faint">{t("rows.count", { n: number(one.rows) })}</span>
        </li>
      ))}
    </ul>
  );
}

/** The error of a number; of labels how often they were right; and what the truth says of intervals and probabilities. */
function qualityText(one: LiveFigure, t: Translate): string {
  const parts = one.accuracy === null ? [`RMSE ${number(one.rmse)}`, `MAE ${number(one.mae)}`] : [`${t("drift.accuracy")} ${percent(one.accuracy)}`];
  if (one.coverage !== null) parts.push(t("truth.coverage", { share: percent(one.coverage), level: percent(one.level) }));
  if (one.brier !== null) parts.push(`${t("truth.brier")} ${number(one.brier, 3)}`);
  return parts.join(" · ");
}
