import { Link } from "react-router";
import { useText } from "../i18n";

/** Says that a dataset holds a model's predictions, on which dataset, and which run trained that version. */
export function PredictedBy(props: { dataset?: string; model: string; version: number; of?: string; trainedBy?: string | null }) {
  const t = useText();
  const { dataset, model, version, of, trainedBy } = props;
  const table = (ref: string) => <Link to={`/datasets/${encodeURIComponent(ref)}`}>{ref}</Link>;
  return (
    <p>
      {dataset && <>{table(dataset)} ← </>}
      {t("lineage.predicted")} <Link to={`/models/${encodeURIComponent(model)}`}>{model}</Link> v{version}
      {of && <> {t("lineage.predicted.on")} {table(of)}</>}
      {trainedBy && (
        <>
          {" · "}
          {t("run")} <Link className="mono" to={`/runs/${encodeURIComponent(trainedBy)}`}>…{trainedBy.slice(-8)}</Link>
        </>
      )}
    </p>
  );
}
