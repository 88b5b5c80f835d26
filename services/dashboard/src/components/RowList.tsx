import { useQuery } from "@tanstack/react-query";
import { Fragment, useState } from "react";
import { get, seg } from "../api/client";
import type { RowsPage } from "../api/types";
import { number } from "../format";
import { named, useText } from "../i18n";
import { Card, ErrorView, Loading, Scroll } from "./basics";

const MOST_ROWS = 15;
const MOST_COLUMNS = 7;

interface RowListProps {
  title: string;
  /** The text beside each row; `row` is its number in the dataset, from 1. */
  rows: readonly Record<string, unknown>[];
  dataset: string;
}

const shown = (value: unknown): string => (typeof value === "number" ? number(value, 3) : typeof value === "string" ? value : JSON.stringify(value));

/** Rows of a dataset with a text beside each; a click shows their values. */
export function RowList({ title, rows, dataset }: RowListProps) {
  const t = useText();
  const [open, setOpen] = useState<number | null>(null);
  const entries = rows.slice(0, MOST_ROWS);
  const columns = [...new Set(entries.flatMap((entry) => Object.keys(entry)))].filter((name) => name !== "row").slice(0, MOST_COLUMNS - 1);
  if (entries.length === 0) return null;
  const align = (name: string) => (typeof entries[0]?.[name] === "number" ? "num" : "");
  return (
    <Card title={title} bare>
      <Scroll>
        <table className="table dense">
          <thead>
            <tr>
              <th scope="col">{t("row")}</th>
              {columns.map((name) => (
                <th scope="col" key={name} className={align(name)}>
                  {named("rowlist", name, t)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {entries.map((entry) => {
              const row = Number(entry.row);
              const isOpen = open === row;
              return (
                <Fragment key={row}>
                  <tr>
                    <td>
                      <button type="button" className="linklike" aria-expanded={isOpen} aria-label={t("hardest.row", { n: row })} onClick={() => setOpen(isOpen ? null : row)}>
                        {row}
                      </button>
                    </td>
                    {columns.map((name) => (
                      <td key={name} className={align(name)}>
                        {name === "part" ? named("part", String(entry[name]), t) : shown(entry[name])}
                      </td>
                    ))}
                  </tr>
                  {isOpen && (
                    <tr>
                      <td colSpan={columns.length + 1}>
                        <RowContents dataset={dataset} row={row} />
                      </td>
                    </tr>
                  )}
                </Fragment>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </Card>
  );
}

function RowContents({ dataset, row }: { dataset: string; row: number }) {
  const found = useQuery({
    queryKey: ["row", dataset, row],
    queryFn: ({ signal }) => get<RowsPage>(`/api/v1/datasets/${seg(dataset)}/rows`, { offset: row - 1, limit: 1 }, signal),
    staleTime: Number.POSITIVE_INFINITY,
  });
  if (found.isPending) return <Loading />;
  if (found.error) return <ErrorView error={found.error} />;
  const values = found.data.rows[0] ?? [];
  return (
    <dl className="facts">
      {found.data.columns.map((name, index) => (
        <div key={name} className="contents">
          <dt>{name}</dt>
          <dd>{values[index] === null ? <span className="faint">–</span> : String(values[index])}</dd>
        </div>
      ))}
    </dl>
  );
}
