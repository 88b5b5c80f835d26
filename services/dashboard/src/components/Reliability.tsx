import { number } from "../format";
import { useText } from "../i18n";
import { range } from "../spec/conditions";
import { Card, Scroll } from "./basics";

type Figures = Record<string, unknown>;
const isFigures = (value: unknown): value is Figures => value !== null && typeof value === "object" && !Array.isArray(value);
const MEASURES = [
  { name: "calibration_error", text: "reliability.ece" },
  { name: "brier", text: "reliability.brier" },
  { name: "log_loss", text: "reliability.logloss" },
] as const;

/** What calibration changed: each figure before and after on the same rows, with 95% intervals. Lower is better. */
export function CalibrationTable({ calibrated }: { calibrated: Figures }) {
  const t = useText();
  const { before, after, change } = calibrated;
  if (!isFigures(before) || !isFigures(after)) return null;
  const intervalOf = (of: Figures, name: string) => range(isFigures(of.intervals) ? (of.intervals[name] as number[] | null) : null);
  return (
    <Card title={t("reliability.title")} level={3} bare>
      <p className="card-lead small muted">{t("reliability.lead", { rows: number(Number(calibrated.rows)), method: String(calibrated.method) })}</p>
      <Scroll label={t("reliability.title")}>
        <table className="table dense figures" data-testid="calibration">
          <thead>
            <tr>
              <th scope="col">{t("metric")}</th>
              <th scope="col" className="num">{t("reliability.before")}</th>
              <th scope="col" className="num">{t("reliability.after")}</th>
              <th scope="col" className="num">{t("reliability.change")}</th>
            </tr>
          </thead>
          <tbody>
            {MEASURES.map(({ name, text }) => {
              const own = isFigures(change) && isFigures(change[name]) ? change[name] : {};
              const difference = Number(own.difference);
              return (
                <tr key={name}>
                  <th scope="row">{t(text)}</th>
                  {[before, after].map((of, index) => (
                    <td key={index} className="num">
                      {number(Number(of[name]), 3)} <div className="small faint">{intervalOf(of, name)}</div>
                    </td>
                  ))}
                  <td className="num">
                    {difference > 0 ? "+" : ""}
                    {number(difference, 3)} <div className="small faint">{range(own.interval as number[] | null)}</div>
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}
