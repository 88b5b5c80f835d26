import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { rollback } from "../api/models";
import { changeRollout, startRollout, useRollout, useRollouts } from "../api/rollouts";
import type { GuardFigure, ModelDetail, RolloutDetail, RolloutInfo } from "../api/types";
import { XYChart } from "../charts/small";
import { ago, number, percent, seconds } from "../format";
import { useText, type Key, type Translate } from "../i18n";
import { Badge, Button, Card, Check, Empty, ErrorView, Field, Loading, NumberInput, Scroll, Segment, Select, Stat, type Tone } from "./basics";
import { Confirm } from "./dialogs";
import { MetricDifference } from "./MetricDifference";
import { showError, showMessage } from "./toasts";

const STEPS = [10, 50, 100]; // that follow the first share
const TONES: Record<string, Tone> = { running: "info", paused: "warn", succeeded: "good", rolled_back: "bad", aborted: "plain" };
const isActive = (one: RolloutInfo): boolean => one.finished_at === null;
const guardName = (guard: string, t: Translate): string => t(`rollout.guard.${guard}` as Key);
const stateName = (one: RolloutInfo, t: Translate): string => t(`rollout.state.${one.reason?.["why"] === "stalled" ? "stalled" : one.state}` as Key);

/** A version on its way to the champion: its share, its guards' curves, and the hand on it. */
export function ModelRollout({ model }: { model: ModelDetail }) {
  const t = useText();
  const rollouts = useRollouts(model.name);
  if (rollouts.isPending) return <Loading />;
  if (rollouts.error) return <ErrorView error={rollouts.error} />;
  const { items } = rollouts.data;
  const newest = items[0];
  const active = newest !== undefined && isActive(newest);
  return (
    <div className="stack">
      {!active && <StartRollout model={model} />}
      {newest === undefined ? (
        <Card>
          <Empty title={t("rollout.none")}>
            <p className="muted">
              {t("rollout.none.text")} {model.versions.length < 2 && t("rollout.none.second")}
            </p>
          </Empty>
        </Card>
      ) : (
        <Shown key={newest.id} model={model} id={newest.id} active={active} />
      )}
      {items.length > 1 && <History items={items.slice(1)} />}
    </div>
  );
}

function useAct(name: string) {
  const queries = useQueryClient();
  const [busy, setBusy] = useState(false);
  const act = (done: Promise<unknown>, message: string) => {
    setBusy(true);
    void done
      .then(() => {
        showMessage(message);
        return queries.invalidateQueries({ queryKey: ["model", name] });
      })
      .catch(showError)
      .finally(() => setBusy(false));
  };
  return { act, busy };
}

function StartRollout({ model }: { model: ModelDetail }) {
  const t = useText();
  const { act, busy } = useAct(model.name);
  const others = model.versions.filter((one) => one.retired_at === null && one.version !== model.serving);
  const champion = model.labels.some((one) => one.label === "champion");
  const choices = (champion ? others : model.versions.filter((one) => one.retired_at === null)).map((one) => String(one.version));
  const [chosen, setChosen] = useState("");
  const [kind, setKind] = useState<"rollout" | "ab">("rollout");
  const [shadow, setShadow] = useState(false);
  const [minutes, setMinutes] = useState<number | null>(60);
  const [days, setDays] = useState<number | null>(7);
  const [moved, setMoved] = useState<number | null>(null);
  const to = choices.includes(chosen) ? chosen : (choices.find((one) => Number(one) !== model.serving) ?? choices[0]);
  if (to === undefined || model.versions.length < 2) return null;
  const share = moved ?? (kind === "ab" ? 50 : 1);
  const steps = kind === "ab" ? [share] : [share, ...STEPS.filter((step) => step > share)];
  const start = () =>
    act(
      startRollout(model.name, {
        to: Number(to),
        kind,
        shadow,
        hold: 60 * (minutes ?? 60),
        deadline: 86_400 * (days ?? 7),
        steps,
      }),
      t("rollout.started"),
    );
  return (
    <Card title={t("rollout.start.title")}>
      <div className="stack tight">
        <p className="small muted">
          {t(kind === "ab" ? "rollout.start.ab" : "rollout.start.text", { steps: steps.map((step) => `${step}%`).join(" → ") })}
        </p>
        <div className="row">
          <Select label={t("version")} value={to} choices={choices} onChange={setChosen} />
          <Segment
            label={t("rollout.kind")}
            value={kind}
            choices={[
              { value: "rollout", label: t("rollout.kind.rollout") },
              { value: "ab", label: t("rollout.kind.ab") },
            ]}
            onChange={(chosen) => {
              setKind(chosen);
              setMoved(null);
            }}
          />
          <label className="field">
            <span className="label">{t(kind === "ab" ? "rollout.share.of" : "rollout.share.first", { share })}</span>
            <input type="range" min={1} max={99} value={share} onChange={(event) => setMoved(Number(event.target.value))} />
          </label>
          {kind === "rollout" && (
            <>
              <Field label={t("rollout.minutes")}>{(id) => <NumberInput id={id} small value={minutes} onChange={setMinutes} />}</Field>
              <Field label={t("rollout.days")}>{(id) => <NumberInput id={id} small value={days} onChange={setDays} />}</Field>
            </>
          )}
          <Check label={t("rollout.shadow")} checked={shadow} onChange={setShadow} />
          <Button tone="primary" disabled={busy} onPress={start}>
            {t("rollout.start")}
          </Button>
        </div>
        <MetricDifference model={model} base={model.serving} to={Number(to)} />
      </div>
    </Card>
  );
}

function Shown({ model, id, active }: { model: ModelDetail; id: string; active: boolean }) {
  const t = useText();
  const rollout = useRollout(model.name, id, active);
  if (rollout.isPending) return <Loading />;
  if (rollout.error) return <ErrorView error={rollout.error} />;
  const one = rollout.data;
  const detail = one.reason?.["detail"];
  return (
    <>
      <Card title={t("rollout.title", { to: one.to, base: one.base })} actions={<Hands model={model} one={one} />}>
        <div className="stack tight">
          <div className="stats">
            <Stat name={t("state")} value={<Badge tone={TONES[one.state] ?? "plain"}>{stateName(one, t)}</Badge>} note={ago(one.finished_at ?? one.step_at)} />
            <Stat name={t("rollout.share")} value={one.share === 0 && isActive(one) ? t("rollout.as.shadow") : percent(one.share, 0)} note={t("rollout.step", { n: one.step + 1, of: one.shares.length })} />
            {one.hold !== null && <Stat name={t("rollout.hold")} value={seconds(one.hold)} />}
            {one.deadline !== null && <Stat name={t("rollout.deadline")} value={seconds(one.deadline)} />}
          </div>
          <progress className="wide" max={1} value={one.share} aria-label={t("rollout.share")} />
          {typeof detail === "string" && <p>{detail}</p>}
        </div>
      </Card>
      {one.comparison.length > 0 && <Comparison one={one} />}
      {[...one.steps].reverse().map((step) => (
        <Card key={step.step} title={step.share === 0 ? t("rollout.as.shadow") : t("rollout.at", { share: percent(step.share, 0) })} bare>
          <Guards figures={step.figures} />
          <div className="body row wrap">
            {step.figures.map((figure) => (
              <GuardCurve key={figure.guard} figure={figure} points={step.curves[figure.guard] ?? []} />
            ))}
          </div>
        </Card>
      ))}
    </>
  );
}

function Hands({ model, one }: { model: ModelDetail; one: RolloutDetail }) {
  const t = useText();
  const { act, busy } = useAct(model.name);
  const [promoting, setPromoting] = useState(false);
  const change = (action: "pause" | "resume" | "abort" | "promote") => act(changeRollout(model.name, one.id, action), t("saved"));
  if (!isActive(one)) {
    const undo = one.state === "succeeded" && model.labels.some((label) => label.label === "champion" && label.version === one.to && label.previous !== null);
    return undo ? (
      <Button small disabled={busy} onPress={() => act(rollback(model.name), t("models.rolledback"))}>
        {t("rollout.undo")}
      </Button>
    ) : null;
  }
  return (
    <>
      <Button small disabled={busy} onPress={() => change(one.state === "paused" ? "resume" : "pause")}>
        {t(one.state === "paused" ? "rollout.resume" : "rollout.pause")}
      </Button>
      <Button small disabled={busy} onPress={() => setPromoting(true)}>
        {t("rollout.promote")}
      </Button>
      <Button small tone="danger" disabled={busy} onPress={() => change("abort")}>
        {t("rollout.abort")}
      </Button>
      <Confirm
        open={promoting}
        title={t("rollout.promote.title", { to: one.to })}
        action={t("rollout.promote")}
        keep={t("models.keep")}
        onClose={() => setPromoting(false)}
        onConfirm={() => change("promote")}
      >
        {t("rollout.promote.text", { to: one.to, base: one.base })}
        <MetricDifference model={model} base={one.base} to={one.to} />
      </Confirm>
    </>
  );
}

/** A guard's figure in its own unit. */
function shown(guard: string, value: number | null): string {
  if (guard === "p99_ratio" || guard === "prediction_drift") return number(value, 3);
  return value === null ? "–" : percent(value, 2);
}

function ownFigure(figure: GuardFigure, value: number | null): string {
  return figure.guard === "p99_ratio" ? seconds(value) : shown(figure.guard, value);
}

function Guards({ figures }: { figures: readonly GuardFigure[] }) {
  const t = useText();
  return (
    <Scroll label={t("rollout.guards")}>
      <table className="table">
        <thead>
          <tr>
            <th scope="col">{t("rollout.guard")}</th>
            <th scope="col" className="num">{t("rollout.before")}</th>
            <th scope="col" className="num">{t("rollout.new")}</th>
            <th scope="col" className="num">{t("rollout.value")}</th>
            <th scope="col" className="num">{t("rollout.low")}</th>
            <th scope="col" className="num">{t("rollout.limit")}</th>
            <th scope="col" className="num">{t("rollout.requests")}</th>
          </tr>
        </thead>
        <tbody>
          {figures.map((figure) => (
            <tr key={figure.guard}>
              <td>
                {guardName(figure.guard, t)}
                {figure.output !== null && <span className="muted"> {figure.output}</span>} {figure.breached && <Badge tone="bad">{t("rollout.breached")}</Badge>}
              </td>
              <td className="num">{ownFigure(figure, figure.base)}</td>
              <td className="num">{ownFigure(figure, figure.new)}</td>
              <td className="num">{shown(figure.guard, figure.value)}</td>
              <td className="num">{shown(figure.guard, figure.low)}</td>
              <td className="num">{shown(figure.guard, figure.limit)}</td>
              <td className="num">{number(figure.base_rows + figure.new_rows)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

type Points = RolloutDetail["steps"][number]["curves"][string];

/** A guard's value with its bounds over the requests, and the limit that the lower bound must not pass. */
function GuardCurve({ figure, points }: { figure: GuardFigure; points: Points }) {
  const t = useText();
  const last = points.at(-1);
  if (points.length < 2 || last === undefined) return null;
  const line = (of: (point: Points[number]) => number | null) => points.flatMap((point) => ((y) => (y === null ? [] : [{ x: point.rows, y }]))(of(point)));
  const name = guardName(figure.guard, t);
  const limit = [points[0]?.rows ?? 0, last.rows].map((x) => ({ x, y: figure.limit }));
  const lines = [
    { label: t("rollout.limit"), color: "var(--bad)", dash: true, points: limit },
    { label: t("rollout.value"), color: "var(--train)", points: line((point) => point.value) },
    { label: t("rollout.low"), color: "var(--valid)", points: line((point) => point.low) },
    { label: t("rollout.high"), color: "var(--ink-3)", dash: true, points: line((point) => point.high) },
  ];
  return (
    <figure>
      <figcaption className="small">{name}</figcaption>
      <XYChart label={t("rollout.curve", { guard: name })} lines={lines.filter((one) => one.points.length > 0)} xLabel={t("rollout.requests")} yLabel={t("rollout.value")} size={220} />
      <p className="small muted">
        <span style={{ color: "var(--train)" }}>■</span> {t("rollout.value")} <span style={{ color: "var(--valid)" }}>■</span> {t("rollout.low")}{" "}
        <span style={{ color: "var(--bad)" }}>■</span> {t("rollout.limit")}
      </p>
    </figure>
  );
}

function Comparison({ one }: { one: RolloutDetail }) {
  const t = useText();
  return (
    <Card title={t("rollout.comparison")} bare>
      <Scroll label={t("rollout.comparison")}>
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t("metric")}</th>
              <th scope="col" className="num">v{one.base}</th>
              <th scope="col" className="num">v{one.to}</th>
              <th scope="col" className="num">{t("rollout.difference")}</th>
              <th scope="col" className="num">{t("rollout.interval")}</th>
              <th scope="col" className="num">{t("rollout.truths")}</th>
            </tr>
          </thead>
          <tbody>
            {one.comparison.map((row) => (
              <tr key={row.output}>
                <td>
                  {t(row.metric === "accuracy" ? "drift.accuracy" : "rollout.mae")} <span className="muted">{row.output}</span>
                </td>
                <td className="num">{number(row.base)}</td>
                <td className="num">{number(row.new)}</td>
                <td className="num">{number(row.difference)}</td>
                <td className="num">{row.low === null ? "–" : `${number(row.low)} – ${number(row.high)}`}</td>
                <td className="num">{`${number(row.base_rows)} / ${number(row.new_rows)}`}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

function History({ items }: { items: readonly RolloutInfo[] }) {
  const t = useText();
  return (
    <Card title={t("rollout.history")}>
      <ul className="plain-list flush">
        {items.map((one) => (
          <li key={one.id}>
            <span>
              v{one.base} → v{one.to}
            </span>
            <Badge tone={TONES[one.state] ?? "plain"}>{stateName(one, t)}</Badge>
            <span className="grow small muted">{typeof one.reason?.["detail"] === "string" ? one.reason["detail"] : ""}</span>
            <span className="small faint nowrap">{ago(one.created_at)}</span>
          </li>
        ))}
      </ul>
    </Card>
  );
}
