import { useState } from "react";
import { useDataset, useDatasets, refOf } from "../../api/datasets";
import { useText } from "../../i18n";
import type { OwnTable } from "../../spec/playground";
import { Button, ErrorView, Loading, Select } from "../basics";

/** Chooses two columns of a table and what they predict. */
export function OwnColumns({ own, onChoose }: { own: OwnTable | null; onChoose: (own: OwnTable) => void }) {
  const t = useText();
  const tables = useDatasets(100);
  const refs = tables.data?.pages.flatMap((page) => page.items.map(refOf)) ?? [];
  const [chosen, setChosen] = useState<string | null>(own?.ref ?? null);
  const ref = chosen ?? refs[0] ?? "";
  const dataset = useDataset(ref || null);
  const [picked, setPicked] = useState<Partial<OwnTable>>(own ?? {});
  if (tables.isPending) return <Loading />;
  if (refs.length === 0) return <p className="small muted">{t("datasets.none")}</p>;
  const columns = dataset.data?.columns ?? [];
  const numeric = columns.filter((one) => one.kind === "numeric").map((one) => one.name);
  const values = (name: string) => columns.find((one) => one.name === name)?.distinct;
  const targets = columns.filter((one) => one.kind === "numeric" || values(one.name) === 2).map((one) => one.name);
  const pick = (name: string | undefined, known: readonly string[], place: number) => (name !== undefined && known.includes(name) ? name : (known[place] ?? known[0] ?? ""));
  const target = pick(picked.target, targets, targets.length - 1);
  const inputs = numeric.filter((name) => name !== target);
  const [x, y] = [pick(picked.x, inputs, 0), pick(picked.y, inputs, 1)];
  return (
    <div className="stack tight">
      <Select small label={t("dataset")} value={ref} choices={[...new Set([...refs, ref])]} onChange={setChosen} />
      {dataset.error && <ErrorView error={dataset.error} />}
      {inputs.length < 1 || targets.length < 1 ? (
        <p className="small muted">{t("play.own.none")}</p>
      ) : (
        <>
          <Select small label={t("play.own.x")} value={x} choices={inputs} onChange={(next) => setPicked({ ...picked, x: next })} />
          <Select small label={t("play.own.y")} value={y} choices={inputs} onChange={(next) => setPicked({ ...picked, y: next })} />
          <Select small label={t("target")} value={target} choices={targets} onChange={(next) => setPicked({ ...picked, target: next })} />
          <Button small tone="primary" onPress={() => onChoose({ ref, x, y, target, regression: values(target) !== 2 })}>
            {t("play.own.use")}
          </Button>
        </>
      )}
    </div>
  );
}
