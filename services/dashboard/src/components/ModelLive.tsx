import { useQuery } from "@tanstack/react-query";
import { ApiError, get, seg } from "../api/client";
import { Bars } from "../charts/small";
import { number, percent } from "../format";
import { useText } from "../i18n";
import { Badge, Card, Empty, ErrorView, Loading } from "./basics";

interface ColumnDrift {
  column: string;
  psi: number;
  missing: number | null;
}

/** Drift as the prediction service measures it, whatever it tells beside. */
function columnsOf(data: unknown): ColumnDrift[] {
  const columns = (data as { columns?: unknown } | null)?.columns;
  const entries: [string, Record<string, unknown>][] = Array.isArray(columns)
    ? columns.map((one: Record<string, unknown>) => [String(one.column ?? one.name ?? ""), one])
    : Object.entries((columns ?? {}) as Record<string, Record<string, unknown>>);
  return entries.flatMap(([column, one]) => {
    const psi = Number(one.psi);
    const missing = one.missing ?? one.missing_share;
    return Number.isFinite(psi) ? [{ column, psi, missing: typeof missing === "number" ? missing : null }] : [];
  });
}

/** How what is asked now differs from what the model was trained on. */
export function ModelLive({ name }: { name: string }) {
  const t = useText();
  const drift = useQuery({
    queryKey: ["drift", name],
    queryFn: async ({ signal }) => {
      try {
        return await get<Record<string, unknown>>(`/api/v1/models/${seg(name)}/drift`, undefined, signal);
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) return null;
        throw error;
      }
    },
    refetchInterval: 5000,
  });
  if (drift.isPending) return <Loading />;
  if (drift.error) return <ErrorView error={drift.error} />;
  const columns = columnsOf(drift.data).sort((a, b) => b.psi - a.psi);
  const rows = Number(drift.data?.rows ?? drift.data?.window_rows);
  if (columns.length === 0) return <Empty title={t("drift.none")} />;
  const worst = columns[0]?.psi ?? 0;
  return (
    <Card
      title={t("drift.title")}
      actions={<Badge tone={worst > 0.25 ? "bad" : worst > 0.1 ? "warn" : "good"}>{t(worst > 0.25 ? "drift.strong" : worst > 0.1 ? "drift.some" : "drift.no")}</Badge>}
    >
      <div className="stack tight">
        <p className="small muted">{t("drift.lead", { rows: Number.isFinite(rows) ? number(rows) : "–" })}</p>
        <Bars
          label={t("drift.title")}
          max={Math.max(0.5, worst)}
          bars={columns.map((one) => ({
            label: one.column,
            value: one.psi,
            text: `${number(one.psi, 3)}${one.missing === null ? "" : ` · ${t("missing")} ${percent(one.missing)}`}`,
            color: one.psi > 0.25 ? "var(--bad)" : one.psi > 0.1 ? "var(--warn)" : "var(--good)",
          }))}
        />
      </div>
    </Card>
  );
}
