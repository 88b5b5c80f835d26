import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useNavigate } from "react-router";
import { makeSample, useSamples } from "../api/datasets";
import { isLive, submitSpec } from "../api/runs";
import type { DatasetInfo, ListedRun } from "../api/types";
import { useText } from "../i18n";
import { Button } from "./basics";
import { shortId } from "./RunBits";
import { showError } from "./toasts";

const SAMPLE = "titanic";

/** What to do next, from the newest run and table: one sentence and one button. */
export function NextStep({ runs, tables }: { runs: readonly ListedRun[]; tables: readonly DatasetInfo[] }) {
  const t = useText();
  const [run, table] = [runs[0], tables[0]];
  const name = run ? (run.name ?? t("next.unnamed", { target: run.targets.join(", ") || shortId(run.id) })) : "";
  const at = run ? `/runs/${encodeURIComponent(run.id)}` : "";
  const untouched = table && !runs.some((one) => one.dataset_id === table.id) ? table : undefined;
  const [text, to, action] = !run
    ? table
      ? [t("next.train", { table: table.name }), `/new?dataset=${encodeURIComponent(`${table.name}@${table.version}`)}`, t("home.train")]
      : [t("next.nothing"), "", ""]
    : isLive(run)
      ? [t("next.watch", { name }), at, t("next.watch.do")]
      : run.state === "failed"
        ? [t("next.failed", { name }), at, t("next.failed.do")]
        : untouched && untouched.created_at > run.created_at
          ? [t("next.train", { table: untouched.name }), `/new?dataset=${encodeURIComponent(`${untouched.name}@${untouched.version}`)}`, t("home.train")]
          : run.state === "succeeded" && run.model
            ? [t("next.try", { model: run.model }), `/models/${encodeURIComponent(run.model)}`, t("next.try.do")]
            : [t("next.findings", { name }), `${at}?tab=findings`, t("next.findings.do")];
  return (
    <section className="card next" aria-label={t("next.title")}>
      <div className="body row between">
        <div>
          <h2>{t("next.title")}</h2>
          <p className="muted">{text}</p>
        </div>
        {to === "" ? (
          <TrainSample />
        ) : (
          <Link className="button primary" to={to}>
            {action}
          </Link>
        )}
      </div>
    </section>
  );
}

/** One click from nothing to a network that trains, and becomes a model. */
export function TrainSample() {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const samples = useSamples();
  const [busy, setBusy] = useState(false);
  const target = samples.data?.find((one) => one.sample === SAMPLE)?.target;
  const begin = () => {
    setBusy(true);
    makeSample({ sample: SAMPLE })
      .then((made) => submitSpec({ dataset: `${made.name}@${made.version}`, target, model: SAMPLE }))
      .then((run) => {
        for (const key of ["datasets", "runs"]) void queries.invalidateQueries({ queryKey: [key] });
        return go(`/runs/${encodeURIComponent(run.id)}`);
      })
      .catch(showError)
      .finally(() => setBusy(false));
  };
  return (
    <Button tone="primary" disabled={busy || !target} onPress={begin}>
      {t("next.sample")}
    </Button>
  );
}
