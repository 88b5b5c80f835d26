import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "react-router";
import { exportFile, makeExport, useExports } from "../api/models";
import { isLive } from "../api/runs";
import type { ExportFormat, ExportInfo } from "../api/types";
import { bytes, number } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";
import { Button, Card, ErrorView, Scroll } from "./basics";
import { StateBadge } from "./RunBits";

const FORMATS: readonly ExportFormat[] = ["code", "onnx-raw", "saved-model", "mlflow"];

/** A version in other formats: made by a worker when asked for, compared with what is served, then downloaded. */
export function ModelExports({ name, version }: { name: string; version: number }) {
  const t = useText();
  const made = useExports(name, version);
  return (
    <Card title={t("export.title", { version })} bare>
      <p className="body small muted">{t("export.text")}</p>
      {made.error ? (
        <ErrorView error={made.error} />
      ) : (
        <Scroll label={t("export.title", { version })}>
          <table className="table">
            <tbody>
              {FORMATS.map((format) => (
                <Format key={format} name={name} version={version} format={format} made={made.data?.find((one) => one.format === format)} />
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Card>
  );
}

interface Props {
  name: string;
  version: number;
  format: ExportFormat;
  made: ExportInfo | undefined;
}

function Format({ name, version, format, made }: Props) {
  const t = useText();
  const say = useSentence();
  const queries = useQueryClient();
  const [busy, setBusy] = useState(false);
  const [refusal, setRefusal] = useState<unknown>(null);
  const start = () => {
    setBusy(true);
    setRefusal(null);
    makeExport(name, version, format)
      .then(() => queries.invalidateQueries({ queryKey: ["exports", name, version] }))
      .catch(setRefusal)
      .finally(() => setBusy(false));
  };
  const difference = made?.parity?.max_rel;
  return (
    <tr>
      <td>
        <strong>{t(`export.${format}`)}</strong>
        <div className="small muted">{t(`export.${format}.text`)}</div>
        {refusal !== null && <ErrorView error={refusal} />}
        {made?.state === "failed" && <div className="small">{say(String(made.error?.detail ?? ""))}</div>}
        {typeof difference === "number" && <div className="small muted">{t("export.parity", { value: number(difference, 1) })}</div>}
        {made && made.state !== "succeeded" && (
          <Link to={`/runs/${encodeURIComponent(made.run_id)}`}>
            <StateBadge state={made.state} />
          </Link>
        )}
      </td>
      <td className="right">
        {made?.state === "succeeded" ? (
          <a className="button small" href={exportFile(name, version, format)} download>
            {t("download")} {bytes(made.bytes ?? undefined)}
          </a>
        ) : (
          <Button small disabled={busy || (made !== undefined && isLive(made))} onPress={start}>
            {t("export.make")}
          </Button>
        )}
      </td>
    </tr>
  );
}
