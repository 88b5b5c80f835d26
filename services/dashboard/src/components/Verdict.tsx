import { bytes, number, seconds } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import type { VerdictState } from "../spec/useVerdict";
import { Badge, Card, ErrorView, Notice, Scroll, Stat } from "./basics";

interface Props {
  verdict: VerdictState;
  problem: { detail: string; line: number } | null;
  missingTarget: boolean;
}

/** The server's validation of the spec: size, time and warnings, or the errors. */
export function Verdict({ verdict, problem, missingTarget }: Props) {
  const t = useText();
  const say = useSentence();
  const { answer, error, busy } = verdict;
  const state = problem || error ? "bad" : missingTarget || answer === null ? "wait" : answer.warnings.length > 0 ? "warn" : "good";
  return (
    <Card
      title={t("verdict.title")}
      actions={
        <span aria-live="polite">
          {busy && state !== "bad" ? (
            <span className="spinner" aria-hidden="true" />
          ) : (
            <Badge tone={state === "wait" ? "plain" : state}>{t(`verdict.${state}`)}</Badge>
          )}
        </span>
      }
    >
      <div className="stack" data-testid="verdict">
        {missingTarget && !problem && <p className="muted">{t("verdict.target")}</p>}
        {problem && (
          <Notice tone="bad">
            {t("verdict.line", { line: problem.line })}: {problem.detail}
          </Notice>
        )}
        {error && !problem && <ErrorView error={error} />}
        {answer && (
          <>
            <div className="stats">
              <Stat name={t("parameters")} value={number(answer.estimates.parameters)} />
              <Stat name={t("estimate.seconds")} value={seconds(answer.estimates.seconds)} />
              <Stat name={t("estimate.memory")} value={bytes(answer.estimates.training_bytes + (answer.estimates.rows_bytes ?? 0))} />
              <Stat name={t("estimate.steps")} value={number(answer.estimates.steps_per_epoch)} />
            </div>
            {answer.warnings.map((warning, index) => (
              <Notice key={index} tone="warn">
                {say(warning.detail)}
                {warning.fix && <div className="small">→ {say(warning.fix)}</div>}
              </Notice>
            ))}
            <details>
              <summary className="small">{t("verdict.summary")}</summary>
              <Scroll>
                <table className="table dense">
                  <thead>
                    <tr>
                      <th scope="col">{t("layer")}</th>
                      <th scope="col">{t("shape")}</th>
                      <th scope="col" className="num">{t("parameters")}</th>
                    </tr>
                  </thead>
                  <tbody>
                    {answer.summary.map((row) => (
                      <tr key={row.name}>
                        <td>
                          {row.name} <span className="faint">{row.layer}</span>
                        </td>
                        <td className="mono">({row.output_shape.map((size) => size ?? "–").join(", ")})</td>
                        <td className="num">{number(row.parameters)}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </Scroll>
            </details>
          </>
        )}
      </div>
    </Card>
  );
}
