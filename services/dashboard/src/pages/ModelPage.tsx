import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useParams } from "react-router";
import { removeLabel, retire, rollback, setLabel, setLoaded, useManifest, useModel } from "../api/models";
import type { ModelDetail, VersionInfo } from "../api/types";
import { Badge, Button, Card, ErrorView, Loading, Scroll, Stat } from "../components/basics";
import { shortId } from "../components/RunBits";
import { AddressTabs, Confirm } from "../components/dialogs";
import { showMessage, showError } from "../components/toasts";
import { ModelSharing } from "../components/Sharing";
import { TryIt } from "../components/TryIt";
import { Decisions } from "../components/ThresholdPanel";
import { PredictTableButton } from "../components/PredictTable";
import { MetricDifference } from "../components/MetricDifference";
import { ModelExports } from "../components/ModelExports";
import { ModelLive } from "../components/ModelLive";
import { ModelRollout } from "../components/ModelRollout";
import { ago, bytes, moment, number } from "../format";
import { useText, type Translate } from "../i18n";
import { useInAddress } from "../state/address";
import { columnsOf } from "../spec/prediction";
import { metricLine, versionsLine } from "./Models";

export default function ModelPage() {
  const { name = "" } = useParams();
  const t = useText();
  const model = useModel(name);
  if (model.isPending) return <Loading />;
  if (model.error) {
    return (
      <div className="page">
        <h1>{name}</h1>
        <ErrorView error={model.error} />
      </div>
    );
  }
  const detail = model.data;
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <div className="crumbs">
            <Link to="/models">{t("nav.models")}</Link>
          </div>
          <h1 className="row">
            <span className="break">{detail.name}</span>
            {detail.loaded ? <Badge tone="good">{t("models.loaded")}</Badge> : <Badge>{t("models.unloaded")}</Badge>}
          </h1>
          <p className="muted small">
            {versionsLine(detail, t)} · {t("created")} {moment(detail.created_at)}
          </p>
        </div>
        <div className="row">
          <Link className="button" to={`/runs?model=${encodeURIComponent(detail.name)}`}>
            {t("nav.runs")}
          </Link>
          {detail.serving !== null && (
            <a className="button" href={`/api/v1/models/${encodeURIComponent(detail.name)}/versions/${detail.serving}/card?format=html`} target="_blank" rel="noreferrer">
              {t("models.card")}
            </a>
          )}
          <PredictTableButton model={detail} />
          <ModelSharing model={detail} />
          <LoadButton model={detail} />
        </div>
      </div>
      <AddressTabs
        label={detail.name}
        tabs={[
          { id: "try", title: t("try.title"), content: () => <TryIt key={detail.serving} model={detail} /> },
          { id: "versions", title: t("models.tab.versions"), content: () => <Versions model={detail} /> },
          { id: "rollout", title: t("models.tab.rollout"), content: () => <ModelRollout model={detail} /> },
          { id: "live", title: t("models.tab.live"), content: () => <ModelLive name={detail.name} /> },
        ]}
      />
    </div>
  );
}

function useChange(name: string) {
  const queries = useQueryClient();
  return (done: Promise<unknown>, message: string) =>
    void done
      .then(() => {
        showMessage(message);
        return queries.invalidateQueries({ queryKey: ["model", name] });
      })
      .catch(showError);
}

function LoadButton({ model }: { model: ModelDetail }) {
  const t = useText();
  const change = useChange(model.name);
  const [asking, setAsking] = useState(false);
  if (!model.loaded) return <Button onPress={() => change(setLoaded(model.name, true), t("saved"))}>{t("models.load")}</Button>;
  return (
    <>
      <Button onPress={() => setAsking(true)}>{t("models.unload")}</Button>
      <Confirm
        open={asking}
        danger
        title={t("models.unload.title", { model: model.name })}
        action={t("models.unload")}
        keep={t("models.keep")}
        onClose={() => setAsking(false)}
        onConfirm={() => change(setLoaded(model.name, false), t("saved"))}
      >
        {t("models.unload.text")}
      </Confirm>
    </>
  );
}

/** What moving a label changes. The champion serves; without one, the newest version does. */
function moveText({ label, version, from }: Move, model: ModelDetail, t: Translate): string {
  const live = label === "champion" ? model.serving : null;
  if (live !== null && live !== version) return t("models.move.text.live", { label, version, from: live });
  return from === null || from === version ? t("models.move.text.new", { label, version }) : t("models.move.text", { label, version, from });
}

interface Move {
  label: string;
  version: number;
  from: number | null;
  /** To the version that had the label before. */
  back?: boolean;
}

function Versions({ model }: { model: ModelDetail }) {
  const t = useText();
  const change = useChange(model.name);
  const [move, setMove] = useState<Move | null>(null);
  const [retiring, setRetiring] = useState<number | null>(null);
  const [shown, setOpen] = useInAddress("shown", model.serving === null ? "" : String(model.serving));
  const open = Number.parseInt(shown, 10) || null;
  const champion = model.labels.find((label) => label.label === "champion");
  return (
    <div className="stack">
      <Card
        title={t("models.tab.versions")}
        bare
        actions={
          champion?.previous != null ? (
            <Button small onPress={() => setMove({ label: "champion", version: champion.previous as number, from: champion.version, back: true })}>
              {t("models.rollback", { v: champion.previous })}
            </Button>
          ) : undefined
        }
      >
        <Scroll>
          <table className="table">
            <thead>
              <tr>
                <th scope="col" className="num">{t("version")}</th>
                <th scope="col">{t("labels")}</th>
                <th scope="col" className="num">{t("result")}</th>
                <th scope="col">{t("run")}</th>
                <th scope="col">{t("created")}</th>
                <th scope="col">
                  <span className="visually-hidden">{t("actions")}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {model.versions.map((version) => (
                <tr key={version.version}>
                  <td className="num">
                    <button type="button" className="linklike" onClick={() => setOpen(String(version.version))}>
                      {version.version}
                    </button>
                  </td>
                  <td>
                    <div className="row tight">
                      {version.version === model.serving && <Badge tone="good">{t("models.loaded")}</Badge>}
                      {version.retired_at && <Badge>{t("models.retired")}</Badge>}
                      {model.labels
                        .filter((label) => label.version === version.version)
                        .map((label) => (
                          <Badge key={label.label} tone="info">
                            {label.label}
                            {label.weight > 0 && ` ${Math.round(100 * label.weight)}%`}
                            {label.shadow && ` · ${t("rollout.as.shadow")}`}
                          </Badge>
                        ))}
                    </div>
                  </td>
                  <td className="small num">{metricLine(version.metrics)}</td>
                  <td>
                    <Link className="mono" to={`/runs/${encodeURIComponent(version.run_id)}`}>
                      {shortId(version.run_id)}
                    </Link>
                  </td>
                  <td className="muted nowrap">{ago(version.created_at)}</td>
                  <td className="right">{!version.retired_at && <MoveChoice model={model} version={version} onMove={setMove} onRetire={setRetiring} />}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </Card>
      {open !== null && <VersionDetail name={model.name} version={open} />}
      {open !== null && <ModelExports key={open} name={model.name} version={open} />}
      {open !== null && <Decisions name={model.name} version={open} />}
      <Confirm
        open={move !== null}
        title={t("models.move.title", { label: move?.label ?? "" })}
        action={t("models.move")}
        keep={t("models.keep")}
        onClose={() => setMove(null)}
        onConfirm={() => {
          if (move?.back) change(rollback(model.name), t("models.rolledback"));
          else if (move) change(setLabel(model.name, move.label, move.version), t("models.moved", { label: move.label, version: move.version }));
        }}
      >
        {move !== null && moveText(move, model, t)}
        {move?.label === "champion" && (
          <>
            <MetricDifference model={model} base={model.serving} to={move.version} />
            {model.serving !== null && model.serving !== move.version && (
              <p>
                <Link to="?tab=rollout">{t("rollout.instead")}</Link>
              </p>
            )}
          </>
        )}
      </Confirm>
      <Confirm
        open={retiring !== null}
        danger
        title={t("models.retire.title", { version: retiring ?? 0 })}
        action={t("models.retire")}
        onClose={() => setRetiring(null)}
        onConfirm={() => {
          if (retiring !== null) change(retire(model.name, retiring), t("saved"));
        }}
      >
        {t("models.retire.text")}
      </Confirm>
      {model.labels.some((label) => label.label !== "champion") && (
        <div className="row tight">
          {model.labels
            .filter((label) => label.label !== "champion")
            .map((label) => (
              <Button key={label.label} small tone="quiet" onPress={() => change(removeLabel(model.name, label.label), t("saved"))}>
                {t("models.label.remove", { label: label.label })}
              </Button>
            ))}
        </div>
      )}
    </div>
  );
}

interface ChoiceProps {
  model: ModelDetail;
  version: VersionInfo;
  onMove: (move: Move) => void;
  onRetire: (version: number) => void;
}

function MoveChoice({ model, version, onMove, onRetire }: ChoiceProps) {
  const t = useText();
  const names = [...new Set(["champion", "candidate", ...model.labels.map((label) => label.label)])];
  return (
    <select
      className="select small auto"
      aria-label={t("models.actions", { version: version.version })}
      value=""
      onChange={(event) => {
        const chosen = event.target.value;
        if (chosen === "!retire") onRetire(version.version);
        else if (chosen) {
          const from = model.labels.find((label) => label.label === chosen)?.version ?? null;
          onMove({ label: chosen, version: version.version, from });
        }
      }}
    >
      <option value="">{t("models.assign")}</option>
      {names.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
      <option value="!retire">{t("models.retire")}</option>
    </select>
  );
}

function VersionDetail({ name, version }: { name: string; version: number }) {
  const t = useText();
  const manifest = useManifest(name, version);
  if (manifest.isPending) return <Loading />;
  if (manifest.error) return <ErrorView error={manifest.error} />;
  const { data } = manifest;
  const base = `/api/v1/models/${encodeURIComponent(name)}/versions/${version}/files`;
  return (
    <Card
      title={t("models.version", { version })}
      actions={
        <>
          <a className="button small" href={`${base}/keras`} download>
            model.keras {bytes(data.keras?.bytes)}
          </a>
          <a className="button small" href={`${base}/onnx`} download>
            model.onnx {bytes(data.onnx?.bytes)}
          </a>
        </>
      }
    >
      <div className="stats">
        <Stat name={t("columns")} value={number(columnsOf(data).length)} />
        <Stat name={t("models.outputs")} value={data.outputs.map((output) => output.name).join(", ")} />
        <Stat name={t("models.parity")} value={number(data.parity?.max_rel)} note={t("models.parity.note", { n: number(data.parity?.rows) })} />
      </div>
    </Card>
  );
}
