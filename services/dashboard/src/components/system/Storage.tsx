import { useStorage } from "../../api/system";
import type { SystemInfo } from "../../api/types";
import { bytes, number } from "../../format";
import { named, useText } from "../../i18n";
import { Card, Empty, ErrorView, Loading, Scroll } from "../basics";

/** What each owner stores; without the scope `admin`, one's own. */
export function StorageByOwner() {
  const t = useText();
  const storage = useStorage();
  return (
    <Card title={t("system.storage.owners")} bare>
      {storage.isPending && (
        <div className="body">
          <Loading />
        </div>
      )}
      {storage.error && <ErrorView error={storage.error} />}
      {storage.data?.length === 0 && <Empty title={t("system.storage.none")} />}
      {storage.data && storage.data.length > 0 && (
        <Scroll label={t("system.storage.owners")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("system.keys.owner")}</th>
                <th scope="col" className="num">{t("nav.datasets")}</th>
                <th scope="col" className="num">{t("nav.runs")}</th>
                <th scope="col" className="num">{t("nav.models")}</th>
                <th scope="col" className="num">{t("system.storage.artifacts")}</th>
                <th scope="col" className="num">{t("system.storage.checkpoints")}</th>
                <th scope="col" className="num">{t("system.storage.weights")}</th>
                <th scope="col" className="num">{t("system.storage.total")}</th>
              </tr>
            </thead>
            <tbody>
              {storage.data.map((one) => (
                <tr key={one.owner}>
                  <td className="break">{one.owner}</td>
                  <td className="num">
                    {number(one.datasets)} <span className="faint small">{bytes(one.dataset_bytes)}</span>
                  </td>
                  <td className="num">{number(one.runs)}</td>
                  <td className="num">{number(one.models)}</td>
                  <td className="num">
                    {number(one.artifacts)} <span className="faint small">{bytes(one.artifact_bytes)}</span>
                  </td>
                  <td className="num">{bytes(one.checkpoint_bytes)}</td>
                  <td className="num">{bytes(one.weights_bytes)}</td>
                  <td className="num">
                    <strong>{bytes(one.bytes)}</strong>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Card>
  );
}

/** All files by what they are. */
export function StorageByKind({ system }: { system: SystemInfo }) {
  const t = useText();
  return (
    <Card title={t("system.storage.kinds")} bare>
      <ul className="plain-list">
        {[...system.storage]
          .sort((a, b) => b.bytes - a.bytes)
          .map((one) => (
            <li key={one.kind}>
              <span>{named("stored", one.kind, t)}</span>
              <span className="faint small num">{number(one.blobs)}</span>
              <span className="grow" />
              <span className="num">{bytes(one.bytes)}</span>
            </li>
          ))}
      </ul>
    </Card>
  );
}
