import { useDeferredValue } from "react";
import { useAudit } from "../../api/system";
import { moment, number } from "../../format";
import { useText } from "../../i18n";
import { useInAddress } from "../../state/address";
import { Badge, Button, Card, Empty, ErrorView, Field, Loading, Scroll, Select, type Tone } from "../basics";

const METHODS = ["POST", "PUT", "PATCH", "DELETE"] as const;
const toneOf = (status: number): Tone => (status >= 500 ? "bad" : status >= 400 ? "warn" : "good");
const instant = (local: string): string => (local && !Number.isNaN(Date.parse(local)) ? new Date(local).toISOString() : "");

/** Who changed what, when, from where; what was refused too. */
export function AuditLog() {
  const t = useText();
  const [search, setSearch] = useInAddress("search");
  const [owner, setOwner] = useInAddress("owner");
  const [method, setMethod] = useInAddress("method");
  const [outcome, setOutcome] = useInAddress("outcome");
  const [since, setSince] = useInAddress("since");
  const [until, setUntil] = useInAddress("until");
  const query = useDeferredValue(JSON.stringify({ search: search.trim(), owner: owner.trim(), method, outcome, since: instant(since), until: instant(until) }));
  const audit = useAudit(JSON.parse(query) as Parameters<typeof useAudit>[0]);
  const items = audit.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <Card title={t("system.audit")} bare>
      <div className="body fields wide">
        <Field label={t("system.audit.search")}>
          {(id) => <input id={id} type="search" className="input" value={search} maxLength={100} placeholder={t("system.audit.hint")} onChange={(event) => setSearch(event.target.value)} />}
        </Field>
        <Field label={t("system.keys.owner")}>{(id) => <input id={id} className="input" value={owner} maxLength={63} onChange={(event) => setOwner(event.target.value)} />}</Field>
        <Select label={t("system.audit.method")} value={method} choices={[{ value: "", label: t("all") }, ...METHODS.map((one) => ({ value: one, label: t(`audit.${one}`) }))]} onChange={setMethod} />
        <Select
          label={t("result")}
          value={outcome}
          choices={[
            { value: "", label: t("all") },
            { value: "done", label: t("audit.done") },
            { value: "refused", label: t("audit.refused") },
            { value: "failed", label: t("audit.failed") },
          ]}
          onChange={setOutcome}
        />
        <Field label={t("system.since")}>{(id) => <input id={id} type="datetime-local" className="input" value={since} onChange={(event) => setSince(event.target.value)} />}</Field>
        <Field label={t("system.until")}>{(id) => <input id={id} type="datetime-local" className="input" value={until} onChange={(event) => setUntil(event.target.value)} />}</Field>
      </div>
      {audit.isPending && (
        <div className="body">
          <Loading />
        </div>
      )}
      {audit.error && <ErrorView error={audit.error} />}
      {audit.data && items.length === 0 && !audit.hasNextPage && <Empty title={t("system.audit.none")} />}
      {items.length > 0 && (
        <Scroll label={t("system.audit")}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("time")}</th>
                <th scope="col">{t("system.audit.who")}</th>
                <th scope="col">{t("system.audit.what")}</th>
                <th scope="col" className="num">{t("result")}</th>
                <th scope="col">{t("system.audit.where")}</th>
              </tr>
            </thead>
            <tbody>
              {items.map((one) => (
                <tr key={one.id}>
                  <td className="nowrap">{moment(one.created_at)}</td>
                  <td className="who">
                    {one.owner ?? "–"} <span className="faint mono small block">{one.key_id}</span>
                  </td>
                  <td className="said">
                    <span className="mono small break" title={one.action}>
                      {one.action.split(" ")[0]} {one.target}
                    </span>
                  </td>
                  <td className="num">
                    <Badge tone={toneOf(one.status)}>{one.status}</Badge>
                  </td>
                  <td className="muted small who">
                    {one.address} <span className="faint mono block">{one.request_id}</span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {audit.hasNextPage && (
        <div className="body row">
          <Button small disabled={audit.isFetchingNextPage} onPress={() => void audit.fetchNextPage()}>
            {t("more")}
          </Button>
          <span className="small muted">{t("system.audit.shown", { n: number(items.length) })}</span>
        </div>
      )}
    </Card>
  );
}
