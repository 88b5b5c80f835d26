import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useNavigate } from "react-router";
import { allEpochs, forkRun, useRun } from "../../api/runs";
import type { RunDetail } from "../../api/types";
import { EpochTable } from "../../charts/curves";
import { number } from "../../format";
import { useText } from "../../i18n";
import { changeOf, optimizerAt, seedOf, type Fork as ForkSpec } from "../../spec/fork";
import { useCatalogue } from "../../spec/useCatalogue";
import { Button, Field, NumberInput, Select } from "../basics";
import { FormDialog } from "../dialogs";

/** Goes on from an epoch of a run as a new one, with another learning rate or optimizer. */
export function ForkButton({ run, last, kept }: { run: RunDetail; last: number; kept: number | undefined }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const compares = ["search", "ablate", "check"].some((key) => Boolean(run.resolved[key])); // the server refuses these
  if (last < 1 || run.kind !== "training" || compares) return null;
  return (
    <>
      <Button small onPress={() => setOpen(true)}>
        {t("fork")}
      </Button>
      {open && <ForkForm run={run} last={last} first={Math.min(kept ?? last, last)} onClose={() => setOpen(false)} />}
    </>
  );
}

function ForkForm({ run, last, first, onClose }: { run: RunDetail; last: number; first: number; onClose: () => void }) {
  const t = useText();
  const go = useNavigate();
  const [epoch, setEpoch] = useState<number | null>(first);
  const before = optimizerAt(run.resolved, epoch ?? first);
  const [optimizer, setOptimizer] = useState(before.name);
  const [rate, setRate] = useState<number | null>(before.rate === null ? 0.001 : before.rate / 10);
  const [epochs, setEpochs] = useState<number | null>(null);
  const whole = (value: number | null): value is number => value !== null && Number.isInteger(value);
  const inside = whole(epoch) && epoch >= 1 && epoch <= last;
  const ready = inside && rate !== null && rate >= 0 && (epochs === null || (whole(epochs) && epochs > epoch));
  const submit = () =>
    forkRun(run.id, {
      epoch: epoch ?? first,
      learning_rate: rate,
      ...(optimizer !== before.name && { optimizer }),
      ...(epochs !== null && { epochs }),
    }).then((made) => go(`/runs/${encodeURIComponent(made.id)}`));
  const known = useCatalogue()?.classes("Optimizer").map((one) => one.name) ?? [];
  const names = [...new Set([before.name, ...known])];
  return (
    <FormDialog title={t("fork.title")} action={t("fork.start")} ready={ready} onSubmit={submit} onClose={onClose}>
      <p className="small muted">{t("fork.text")}</p>
      <div className="fields">
        <Field label={t("fork.epoch")} hint={t("fork.epoch.hint", { last: number(last) })} {...(!inside && { wrong: t("fork.epoch.wrong", { last: number(last) }) })}>
          {(id) => <NumberInput id={id} value={epoch} onChange={setEpoch} invalid={!inside} />}
        </Field>
        <Select label={t("optimizer")} value={optimizer} choices={names} onChange={setOptimizer} />
        <Field label={t("curves.rate")} hint={before.rate === null ? t("fork.rate.schedule") : t("fork.rate.before", { rate: number(before.rate) })}>
          {(id) => <NumberInput id={id} value={rate} onChange={setRate} />}
        </Field>
        <Field label={t("fork.epochs")} hint={t("fork.epochs.hint")}>
          {(id) => <NumberInput id={id} value={epochs} onChange={setEpochs} />}
        </Field>
      </div>
    </FormDialog>
  );
}

/** The run that a fork goes on from: its epochs, which of its trials, and where the fork begins. */
export interface Before {
  table: EpochTable;
  trial: number;
  fork: ForkSpec;
}

/** The epochs of the run that this one was forked from; null where it is no fork. */
export function useBefore(run: RunDetail, winner: number): Before | null {
  const fork = changeOf(run.resolved);
  const parent = run.parent_id ?? "";
  const epochs = useQuery({
    queryKey: ["epochs", parent],
    queryFn: ({ signal }) => allEpochs(parent, signal),
    enabled: fork !== null && parent !== "",
    staleTime: 60_000,
    select: asTable,
  });
  const source = useRun(fork === null ? "" : parent);
  if (fork === null || !epochs.data || !source.data) return null;
  // Of several restarts, the one with the fork's seed went on; of an ensemble, every member.
  const trial = run.resolved.ensemble ? winner : seedOf(run.resolved) - seedOf(source.data.resolved);
  return { table: epochs.data, trial, fork };
}

function asTable(rows: Parameters<EpochTable["add"]>[0]): EpochTable {
  const table = new EpochTable();
  table.add(rows);
  return table;
}
