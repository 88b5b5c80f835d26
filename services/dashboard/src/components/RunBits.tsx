import { useText, type Key } from "../i18n";
import { Badge, type Tone } from "./basics";

const TONES: Record<string, Tone> = { queued: "plain", running: "info", succeeded: "good", failed: "bad", cancelled: "warn" };

export function StateBadge({ state, cancelling }: { state: string; cancelling?: boolean }) {
  const t = useText();
  return (
    <Badge tone={TONES[state] ?? "plain"} live={state === "running"}>
      {cancelling && state === "running" ? t("state.cancelling") : t(`state.${state}` as Key)}
    </Badge>
  );
}

/** `val_loss` as `loss`; both are drawn in one chart. */
export const plainMetric = (name: string): string => name.replace(/^val_/, "");

/** The epoch (from 1) whose weights each trial of an ended run kept, by trial; the last one where nothing says so. */
export function keptEpochs(result: Record<string, unknown> | null | undefined): Map<number, number> {
  const trials = Array.isArray(result?.trials) ? (result.trials as unknown[]) : [];
  return new Map(
    trials.flatMap((one): [number, number][] => {
      const { index, best_epoch: best, epochs } = (one ?? {}) as { index?: unknown; best_epoch?: unknown; epochs?: unknown };
      const epoch = typeof best === "number" ? best : epochs;
      return typeof index === "number" && typeof epoch === "number" ? [[index, epoch]] : [];
    }),
  );
}

interface Dataset {
  dataset?: unknown;
  target?: unknown;
}

/** The dataset that an import has made; empty before its end, and of other runs. */
export const importedDataset = (run: { kind: string; result: Record<string, unknown> | null }): string =>
  run.kind === "import" && typeof run.result?.dataset === "string" ? run.result.dataset : "";

/** A resolved spec's dataset and targets as text. */
export function about(resolved: Record<string, unknown>): { dataset: string; target: string } {
  const { dataset, target } = resolved as Dataset;
  const ref = typeof dataset === "string" ? dataset : ((dataset as { ref?: string } | undefined)?.ref ?? "");
  const targets = (Array.isArray(target) ? target : [target]).map((one: unknown) =>
    typeof one === "string" ? one : ((one as { name?: string } | null)?.name ?? ""),
  );
  return { dataset: ref, target: targets.join(", ") };
}

export const shortId = (id: string): string => (id.length > 14 ? `…${id.slice(-8)}` : id);

/** The figure that says most of a run: accuracy, r2, or whatever there is before the loss. */
export function headline(scores: Readonly<Record<string, number>>): string | null {
  const names = Object.keys(scores);
  const find = (wanted: string) => names.find((name) => name === wanted || name.endsWith(`.${wanted}`));
  return find("accuracy") ?? find("r2") ?? names.find((name) => !/loss$/.test(name)) ?? names[0] ?? null;
}
