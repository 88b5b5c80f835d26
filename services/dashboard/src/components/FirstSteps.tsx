import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useNavigate } from "react-router";
import { makeSample, useSamples } from "../api/datasets";
import { useText, type Key } from "../i18n";
import { write, type JsonObject } from "../spec/document";
import { LESSONS } from "../spec/lessons";
import { Icon, type IconName } from "./icons";
import { showError } from "./toasts";

const TOY = "iris";
const COURSE = "circle";

/** What to begin with, while there is neither a table nor a run. */
export default function FirstSteps() {
  const t = useText();
  const go = useNavigate();
  const queries = useQueryClient();
  const samples = useSamples();
  const [busy, setBusy] = useState(false);

  /** Creates a built-in table and opens what is made of its reference and target. */
  const begin = (name: string, address: (ref: string, target: string) => string) => {
    setBusy(true);
    makeSample({ sample: name })
      .then((made) => {
        void queries.invalidateQueries({ queryKey: ["datasets"] });
        const target = samples.data?.find((one) => one.sample === name)?.target ?? "";
        return go(address(`${made.name}@${made.version}`, target));
      })
      .catch(showError)
      .finally(() => setBusy(false));
  };
  const toy = (ref: string, target: string) => `/new?${new URLSearchParams({ dataset: ref, target }).toString()}`;
  const course = (ref: string, target: string) => {
    const [lesson] = LESSONS;
    const spec = { dataset: ref, target, network: lesson?.network ?? [], training: lesson?.training ?? {} };
    return `/new?${new URLSearchParams({ spec: write(spec as JsonObject) }).toString()}`;
  };

  return (
    <section className="stack" aria-label={t("first.title")}>
      <div>
        <h2>{t("first.title")}</h2>
        <p className="muted">{t("first.lead")}</p>
      </div>
      <div className="grid four">
        <Link to="/datasets" className="card link step">
          <Face icon="upload" title="first.upload" text="first.upload.text" />
        </Link>
        <button type="button" className="card link step" disabled={busy || !samples.data} onClick={() => begin(TOY, toy)}>
          <Face icon="table" title="first.toy" text="first.toy.text" />
        </button>
        <button type="button" className="card link step" disabled={busy || !samples.data} onClick={() => begin(COURSE, course)}>
          <Face icon="curve" title="first.course" text="first.course.text" />
        </button>
        <Link to="/playground" className="card link step">
          <Face icon="play" title="first.play" text="first.play.text" />
        </Link>
      </div>
      <p className="muted small">
        {t("first.terminal")} <code>fitserve train TABLE.csv --target COLUMN</code>
      </p>
    </section>
  );
}

function Face({ icon, title, text }: { icon: IconName; title: Key; text: Key }) {
  const t = useText();
  return (
    <span className="body">
      <span className="row tight step-icon">
        <Icon name={icon} />
      </span>
      <strong className="step-title">{t(title)}</strong>
      <span className="muted small">{t(text)}</span>
    </span>
  );
}
