import { useEffect, useRef, type RefObject } from "react";
import { useModel } from "../api/models";
import { isLive } from "../api/runs";
import type { RunDetail } from "../api/types";
import { useText, type Key } from "../i18n";
import { asksNumbers } from "../spec/resolved";

const ALWAYS = ["complexity", "layers", "histograms", "importance", "surface", "units"] as const;
const CLASSES = ["confusion", "roc", "pr", "calibration"] as const;
const NUMBERS = ["predicted", "residuals"] as const;

/** Download links: the network's files if it is a model's version, and every plot as an image. */
export function RunDownloads({ run }: { run: RunDetail }) {
  const t = useText();
  const model = useModel(run.model ?? "");
  const sheet = useRef<HTMLDetailsElement>(null);
  useEffect(() => closeFromOutside(sheet), []);
  if (isLive(run)) return null;
  const version = model.data?.versions.find((one) => one.run_id === run.id);
  const files = version && run.model ? `/api/v1/models/${encodeURIComponent(run.model)}/versions/${version.version}/files` : null;
  const plots = run.state === "succeeded" ? [...ALWAYS, ...(asksNumbers(run.resolved) ? NUMBERS : CLASSES)] : (["complexity", "layers"] as const);
  return (
    <details className="downloads" ref={sheet}>
      <summary className="button">{t("download")}</summary>
      <div className="card sheet">
        {files !== null ? (
          <p className="row tight">
            <a href={`${files}/keras`} download>
              model.keras
            </a>
            <a href={`${files}/onnx`} download>
              model.onnx
            </a>
          </p>
        ) : (
          <p className="small muted">{t("download.nomodel")}</p>
        )}
        <dl>
          {plots.map((plot) => (
            <div key={plot} className="row between nowrap-row">
              <dt>{t(`plot.${plot}` as Key)}</dt>
              <dd className="row tight nowrap-row">
                {["png", "svg"].map((form) => (
                  <a key={form} href={`/api/v1/runs/${encodeURIComponent(run.id)}/plots/${plot}.${form}`} download={`${run.id}-${plot}.${form}`}>
                    {form.toUpperCase()}
                  </a>
                ))}
              </dd>
            </div>
          ))}
        </dl>
      </div>
    </details>
  );
}

/** Close the sheet on Escape and on a press beside it, as menus do; return what stops listening. */
function closeFromOutside(sheet: RefObject<HTMLDetailsElement | null>): () => void {
  const close = (event: KeyboardEvent | PointerEvent) => {
    const element = sheet.current;
    if (!element?.open) return;
    const leaves = event instanceof KeyboardEvent ? event.key === "Escape" : !element.contains(event.target as Node);
    if (!leaves) return;
    element.open = false;
    if (event instanceof KeyboardEvent) element.querySelector("summary")?.focus();
  };
  document.addEventListener("keydown", close);
  document.addEventListener("pointerdown", close);
  return () => {
    document.removeEventListener("keydown", close);
    document.removeEventListener("pointerdown", close);
  };
}
