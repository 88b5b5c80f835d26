import { useNavigate } from "react-router";
import type { RunDetail } from "../api/types";
import { XYChart } from "../charts/small";
import { number } from "../format";
import { named, useText, type Key } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { write, type JsonObject } from "../spec/document";
import { Badge, Button, Card, Scroll, Stat } from "./basics";

interface Effect {
  part: string;
  says: string;
  effect: number | null;
  low: number | null;
  high: number | null;
}

interface OverFolds {
  mean: number | null;
  low: number | null;
  high: number | null;
  folds: readonly (number | null)[];
}

interface RangeTest {
  curve: readonly { learning_rate: number; loss: number; smoothed: number }[];
  steepest: number | null;
  diverges_at: number | null;
  suggested: number | null;
  says: string;
}

interface Checked {
  check: string;
  passed: boolean | null;
  says: string;
  expected: string;
  fix: string | null;
}

interface Found {
  ablation?: { metric: string; parts: readonly Effect[] };
  folds?: Record<string, Record<string, OverFolds>>;
  out_of_fold?: { dataset: string };
  range_test?: RangeTest;
  sanity?: readonly Checked[];
}

const foundBy = (run: RunDetail): Found => (run.result ?? {}) as Found;

/** Whether a run found more than a network: effects of parts, figures over folds, checks. */
export const hasFound = (run: RunDetail): boolean => {
  const found = foundBy(run);
  return Boolean(found.ablation ?? found.folds ?? found.range_test ?? found.sanity);
};

export function RunFound({ run }: { run: RunDetail }) {
  const found = foundBy(run);
  return (
    <div className="stack">
      {found.ablation && <Ablation metric={found.ablation.metric} parts={found.ablation.parts} />}
      {found.range_test && <Range run={run} test={found.range_test} />}
      {found.sanity && <Sanity checks={found.sanity} />}
      {found.folds && <Folds folds={found.folds} dataset={found.out_of_fold?.dataset} />}
    </div>
  );
}

function Ablation({ metric, parts }: { metric: string; parts: readonly Effect[] }) {
  const t = useText();
  const reach = Math.max(1e-12, ...parts.flatMap((one) => [Math.abs(one.low ?? 0), Math.abs(one.high ?? 0)]));
  return (
    <Card title={t("found.ablation")} bare>
      <p className="muted small body">{t("found.ablation.text", { metric })}</p>
      <Scroll label={t("found.ablation")}>
        <table className="table dense">
          <thead>
            <tr>
              <th>{t("found.part")}</th>
              <th>{t("found.says")}</th>
              <th>{t("found.effect")}</th>
              <th>{t("found.interval")}</th>
              <th aria-hidden="true" />
            </tr>
          </thead>
          <tbody>
            {parts.map((one) => (
              <tr key={one.part}>
                <td>{named("part", one.part, t)}</td>
                <td>
                  <Badge tone={one.says === "helps" ? "good" : one.says === "hurts" ? "bad" : "plain"}>{t(`found.${one.says}` as Key)}</Badge>
                </td>
                <td className="num">{number(one.effect)}</td>
                <td className="num">{one.low !== null && `${number(one.low)} … ${number(one.high)}`}</td>
                <td>{one.low !== null && one.high !== null && one.effect !== null && <Interval low={one.low / reach} high={one.high / reach} at={one.effect / reach} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

/** An interval between -1 and 1, with 0 in the middle. */
function Interval({ low, high, at }: { low: number; high: number; at: number }) {
  const x = (value: number) => 80 + 76 * value;
  return (
    <svg className="xy" viewBox="0 0 160 16" width={160} aria-hidden="true">
      <line className="gridline" x1={80} x2={80} y1={0} y2={16} />
      <line x1={x(low)} x2={x(high)} y1={8} y2={8} stroke="var(--train)" strokeWidth={3} />
      <circle cx={x(at)} cy={8} r={4} fill="var(--train)" />
    </svg>
  );
}

function Folds({ folds, dataset }: { folds: Record<string, Record<string, OverFolds>>; dataset: string | undefined }) {
  const t = useText();
  const rows = Object.entries(folds).flatMap(([target, figures]) => Object.entries(figures).map(([name, own]) => ({ target, name, own })));
  return (
    <Card title={t("found.folds")} bare>
      <Scroll label={t("found.folds")}>
        <table className="table dense">
          <thead>
            <tr>
              <th>{t("found.figure")}</th>
              <th>{t("found.mean")}</th>
              <th>{t("found.interval")}</th>
              {(rows[0]?.own.folds ?? []).map((_, index) => (
                <th key={index}>{index + 1}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(({ target, name, own }) => (
              <tr key={`${target} ${name}`}>
                <td>{`${target}: ${name}`}</td>
                <td className="num">{number(own.mean)}</td>
                <td className="num">{own.low !== null && `${number(own.low)} … ${number(own.high)}`}</td>
                {own.folds.map((value, index) => (
                  <td key={index} className="num">
                    {number(value)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {dataset !== undefined && <p className="muted small body">{t("found.folds.kept", { dataset })}</p>}
    </Card>
  );
}

function Range({ run, test }: { run: RunDetail; test: RangeTest }) {
  const t = useText();
  const go = useNavigate();
  const at = (rate: number) => Math.log10(rate);
  const all = test.curve.map((point) => point.smoothed);
  const ceiling = Math.max(...all.slice(0, 10), all[0] ?? 1) * 1.5;
  const lines = [
    { label: "loss", points: test.curve.map((point) => ({ x: at(point.learning_rate), y: Math.min(point.loss, ceiling) })), color: "var(--train)", dots: true },
    { label: "smoothed", points: test.curve.map((point) => ({ x: at(point.learning_rate), y: Math.min(point.smoothed, ceiling) })), color: "var(--valid)" },
  ];
  return (
    <Card
      title={t("found.range")}
      actions={
        test.suggested !== null && (
          <Button small tone="primary" onPress={() => void go(`/new?spec=${encodeURIComponent(write(withRate(run, test.suggested ?? 0)))}`)}>
            {t("found.range.take", { rate: number(test.suggested) })}
          </Button>
        )
      }
    >
      <div className="stats">
        <Stat name={t("found.range.suggested")} value={number(test.suggested)} />
        <Stat name={t("found.range.steepest")} value={number(test.steepest)} />
        <Stat name={t("found.range.diverges")} value={number(test.diverges_at)} />
      </div>
      {test.curve.length > 1 && <XYChart label={t("found.range")} lines={lines} xLabel={t("found.range.x")} yLabel={t("found.range.y")} size={300} />}
    </Card>
  );
}

/** The run's spec without the check, its optimizer with another learning rate. */
function withRate(run: RunDetail, rate: number): JsonObject {
  const spec = Object.fromEntries(Object.entries(run.spec as JsonObject).filter(([key]) => key !== "check")) as JsonObject;
  const training = (spec.training ?? {}) as JsonObject;
  const resolved = (run.resolved.training as JsonObject).optimizer as JsonObject;
  const [name = "Adam"] = Object.keys(resolved);
  const written = training.optimizer;
  const own = typeof written === "object" && written !== null && !Array.isArray(written) ? (written as JsonObject)[name] : undefined;
  const before = typeof own === "object" && own !== null && !Array.isArray(own) ? (own as JsonObject) : {};
  return { ...spec, training: { ...training, optimizer: { [name]: { ...before, learning_rate: rate } } } };
}

function Sanity({ checks }: { checks: readonly Checked[] }) {
  const t = useText();
  const say = useSentence();
  return (
    <Card title={t("found.sanity")}>
      <ul className="plain-list stack tight">
        {checks.map((one) => (
          <li key={one.check}>
            <Badge tone={one.passed === true ? "good" : one.passed === false ? "warn" : "plain"}>{t(one.passed === true ? "found.passed" : one.passed === false ? "found.finding" : "found.notmade")}</Badge>{" "}
            {say(one.says)} {one.fix !== null && <span className="muted">{say(one.fix)}</span>}
          </li>
        ))}
      </ul>
    </Card>
  );
}
