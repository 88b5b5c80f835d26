import { useMemo } from "react";
import { centred, useSurface, type Surface, type SurfaceAxis } from "../api/surface";
import type { RunDetail } from "../api/types";
import { HeatMap } from "../charts/HeatMap";
import { number } from "../format";
import { useText } from "../i18n";
import { featureColumns } from "../spec/resolved";
import { useInAddress } from "../state/address";
import { Card, Empty, ErrorView, Loading, Select } from "./basics";

const MEMBER = /_member(\d+)$/; // of an ensemble, in a layer's name

/** The decision surface over two columns, a slider over the recorded epochs, and the hidden units' maps. */
export function RunSurface({ run }: { run: RunDetail }) {
  const t = useText();
  const columns = useMemo(() => featureColumns(run.resolved), [run.resolved]);
  // Without a choice, the server takes the two most important columns that can be drawn.
  const [x, setX] = useInAddress("x");
  const [y, setY] = useInAddress("y");
  const [query, setEpoch] = useInAddress("epoch");
  const epoch = Number.parseInt(query, 10) || null;
  const [member, setMember] = useInAddress("network");
  const surface = useSurface(run.id, { ...(x && { x }), ...(y && { y }), ...(epoch !== null && { epoch }), units: true }, run.state === "succeeded" && columns.length >= 2 && (x === "" || x !== y));
  if (run.state !== "succeeded") return <Empty title={t("evaluation.waiting")} />;
  if (columns.length < 2) return <Empty title={t("surface.none")} />;
  const { data } = surface;
  const epochs = data?.epochs ?? [];
  const at = Math.max(0, epochs.indexOf(data?.epoch ?? -1));
  const share = data?.labels !== null;
  const all = [...new Set(data?.units.map((unit) => unit.layer) ?? [])];
  const networks = [...new Set(all.flatMap((layer) => MEMBER.exec(layer)?.[1] ?? []))];
  const network = networks.includes(member) ? member : (networks[0] ?? "");
  const layers = networks.length > 1 ? all.filter((layer) => MEMBER.exec(layer)?.[1] === network) : all;
  return (
    <div className="stack">
      <Card title={t("surface.title")}>
        <div className="stack">
          <p className="small muted">{t("surface.lead")}</p>
          {(!surface.isPending || x || y) && (
            <div className="fields narrow-fields">
              <Select label="x" value={x || (data?.x.column ?? "")} choices={data?.axes ?? columns} onChange={setX} />
              <Select label="y" value={y || (data?.y.column ?? "")} choices={data?.axes ?? columns} onChange={setY} />
            </div>
          )}
          {surface.isPending && (x === "" || x !== y) && <Loading />}
          {surface.error && <ErrorView error={surface.error} />}
          {data === null && <Empty title={t("surface.none")} />}
          {data && (
            <div className="row top surface">
              <div>
                <HeatMap label={t("surface.title")} grid={centred(data.grid, share)} x={data.x.range} y={data.y.range} size={360} axes={false} cells={data.x.labels !== null || data.y.labels !== null} />
                {data.label !== null && <div className="small muted">{t("surface.label", { label: data.label })}</div>}
                <a className="small" download href={plotAddress(run.id, data)}>
                  {t("download")} PNG
                </a>
                <AxisLine axis={data.x} arrow="→" />
                <AxisLine axis={data.y} arrow="↑" />
                {epochs.length > 1 && (
                  <label className="field">
                    <span className="label">{t("surface.epoch", { epoch: data.epoch })}</span>
                    <input type="range" min={0} max={epochs.length - 1} step={1} value={at} onChange={(event) => setEpoch(String(epochs[Number(event.target.value)] ?? ""))} />
                  </label>
                )}
              </div>
              {layers.length > 0 && (
                <div className="grow stack">
                  <div className="row between">
                    <h3>{t("surface.units")}</h3>
                    {networks.length > 1 && <Select small hideLabel label={t("surface.network")} value={network} choices={networks.map((n) => ({ value: n, label: t("surface.network.of", { n, of: networks.length }) }))} onChange={setMember} />}
                  </div>
                  {layers.map((layer) => (
                    <div key={layer} className="stack tight">
                      <span className="small muted">{networks.length > 1 ? layer.replace(MEMBER, "") : layer}</span>
                      <div className="row tight">
                        {data.units
                          .filter((unit) => unit.layer === layer)
                          .slice(0, 32)
                          .map((unit) => (
                            <HeatMap key={unit.unit} label={`${layer} ${unit.unit}`} grid={centred(unit.grid, false)} x={data.x.range} y={data.y.range} size={56} axes={false} cells={data.x.labels !== null || data.y.labels !== null} />
                          ))}
                      </div>
                    </div>
                  ))}
                </div>
              )}
            </div>
          )}
        </div>
      </Card>
    </div>
  );
}

function plotAddress(run: string, surface: Surface): string {
  const query = new URLSearchParams({ x: surface.x.column, y: surface.y.column, epoch: String(surface.epoch) });
  return `/api/v1/runs/${encodeURIComponent(run)}/plots/surface.png?${query.toString()}`;
}

function AxisLine({ axis, arrow }: { axis: SurfaceAxis; arrow: string }) {
  return (
    <div className="small faint axis-line">
      {arrow} {axis.column}: {axis.labels === null ? `${number(axis.range[0], 3)} – ${number(axis.range[1], 3)}` : axis.labels.join(" · ")}
    </div>
  );
}
