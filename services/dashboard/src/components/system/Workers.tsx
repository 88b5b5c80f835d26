import { Link } from "react-router";
import type { SystemInfo } from "../../api/types";
import { ago } from "../../format";
import { useText } from "../../i18n";
import { Badge, Card, Notice, Scroll } from "../basics";
import { shortId } from "../RunBits";

/** Workers and what they do; one that stopped answering is not idle. */
export function Workers({ system }: { system: SystemInfo }) {
  const t = useText();
  return (
    <Card title={t("system.workers")} bare>
      {system.workers.length === 0 ? (
        <div className="body">
          <Notice tone="warn">{t("system.workers.none")}</Notice>
        </div>
      ) : (
        <Scroll label={t("system.workers")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("system.worker")}</th>
                <th scope="col">{t("system.current")}</th>
                <th scope="col">{t("system.started")}</th>
                <th scope="col">{t("system.heartbeat")}</th>
              </tr>
            </thead>
            <tbody>
              {system.workers.map((worker) => (
                <tr key={worker.id}>
                  <td>
                    <span className="break">{worker.hostname}</span> <span className="faint num">{worker.pid}</span>
                  </td>
                  <td>
                    {!worker.alive ? (
                      <Badge tone="bad">{t("system.lost")}</Badge>
                    ) : worker.run_id ? (
                      <Link className="mono" to={`/runs/${encodeURIComponent(worker.run_id)}`}>
                        {shortId(worker.run_id)}
                      </Link>
                    ) : (
                      <span className="muted">{t("system.idle")}</span>
                    )}
                  </td>
                  <td className="muted">{ago(worker.started_at)}</td>
                  <td>{worker.alive ? <span className="muted">{ago(worker.heartbeat_at)}</span> : <Badge tone="bad">{ago(worker.heartbeat_at)}</Badge>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Card>
  );
}
