import { useAlarms } from "../../api/system";
import type { AlarmInfo } from "../../api/types";
import { moment, seconds } from "../../format";
import { useText } from "../../i18n";
import { Badge, Button, Card, Empty, ErrorView, Loading, Scroll } from "../basics";
import { conditionText } from "./StatusBanner";

/** The alarms that fired: since when, and until when. */
export function AlarmList() {
  const t = useText();
  const alarms = useAlarms();
  const found = alarms.data?.pages.flatMap((page) => page.items) ?? [];
  const items = [...found.filter((one) => one.ended_at === null), ...found.filter((one) => one.ended_at !== null)];
  return (
    <Card title={t("system.alarms")} bare>
      {alarms.isPending && (
        <div className="body">
          <Loading />
        </div>
      )}
      {alarms.error && <ErrorView error={alarms.error} />}
      {alarms.data && items.length === 0 && (
        <Empty title={t("system.alarms.none")}>
          <p className="muted">{t("system.alarms.none.text")}</p>
        </Empty>
      )}
      {items.length > 0 && (
        <Scroll label={t("system.alarms")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("state")}</th>
                <th scope="col">{t("system.alarm")}</th>
                <th scope="col">{t("system.since")}</th>
                <th scope="col">{t("system.until")}</th>
                <th scope="col">{t("system.lasted")}</th>
              </tr>
            </thead>
            <tbody>
              {items.map((one) => (
                <tr key={one.id}>
                  <td>
                    <Badge tone={one.ended_at ? "plain" : one.severity === "critical" ? "bad" : "warn"}>{t(one.ended_at ? "system.over" : `severity.${one.severity}`)}</Badge>
                  </td>
                  <td className="said">{conditionText(one, t)}</td>
                  <td className="nowrap">{moment(one.since)}</td>
                  <td className="nowrap">{one.ended_at ? moment(one.ended_at) : <strong>{t("system.lasts")}</strong>}</td>
                  <td className="nowrap num">{seconds(lasted(one))}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {alarms.hasNextPage && (
        <div className="body">
          <Button small disabled={alarms.isFetchingNextPage} onPress={() => void alarms.fetchNextPage()}>
            {t("more")}
          </Button>
        </div>
      )}
    </Card>
  );
}

const lasted = (one: AlarmInfo): number => (Date.parse(one.ended_at ?? one.seen_at) - Date.parse(one.since)) / 1000;
