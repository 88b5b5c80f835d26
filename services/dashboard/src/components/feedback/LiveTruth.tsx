import { useManifest } from "../../api/models";
import type { DriftReport } from "../../api/types";
import { useText } from "../../i18n";
import { Card, Empty } from "../basics";
import { LiveFigures } from "./LiveFigures";
import { TruthTableButton } from "./TruthTable";

/** How good the version that serves was by the ground truth posted for it, whenever that was predicted. */
export function LiveTruth({ name, report }: { name: string; report: DriftReport }) {
  const t = useText();
  const manifest = useManifest(name, report.version);
  return (
    <Card title={t("drift.truth")} actions={manifest.data && <TruthTableButton name={name} manifest={manifest.data} />}>
      {report.live.length > 0 ? <LiveFigures figures={report.live} /> : <Empty title={t("truth.nothing")}><p className="muted">{t("truth.nothing.text")}</p></Empty>}
    </Card>
  );
}
