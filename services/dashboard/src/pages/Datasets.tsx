import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useNavigate } from "react-router";
import { makeSample, useDatasets, useSamples, refOf } from "../api/datasets";
import type { SampleInfo } from "../api/types";
import { Badge, Button, Card, Check, Empty, ErrorView, Loading, Scroll } from "../components/basics";
import { showError } from "../components/toasts";
import { ImportForm } from "../components/ImportForm";
import { UploadBox } from "../components/UploadBox";
import { ago, bytes, number } from "../format";
import { useText } from "../i18n";
import { useSentence } from "../i18n/sentences";

export default function Datasets() {
  const t = useText();
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>{t("datasets.title")}</h1>
          <p className="muted">{t("datasets.lead")}</p>
        </div>
      </div>
      <div className="columns">
        <div className="stack">
          <UploadBox />
          <ImportForm />
          <DatasetList />
        </div>
        <Samples />
      </div>
    </div>
  );
}

function DatasetList() {
  const t = useText();
  const [playground, setPlayground] = useState(false);
  const list = useDatasets(50, playground);
  const items = list.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <Card title={t("datasets.list")} bare actions={<Check label={t("playground.show")} checked={playground} onChange={setPlayground} />}>
      {list.isPending && (
        <div className="body">
          <Loading />
        </div>
      )}
      {list.error && (
        <div className="body">
          <ErrorView error={list.error} />
        </div>
      )}
      {list.data && items.length === 0 && (
        <Empty title={t("datasets.none")}>
          <p>{t("datasets.none.text")}</p>
        </Empty>
      )}
      {items.length > 0 && (
        <Scroll>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{t("name")}</th>
                <th scope="col" className="num">{t("rows")}</th>
                <th scope="col" className="num">{t("size")}</th>
                <th scope="col">{t("created")}</th>
                <th scope="col">
                  <span className="visually-hidden">{t("actions")}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {items.map((dataset) => (
                <tr key={dataset.id}>
                  <td>
                    <Link to={`/datasets/${encodeURIComponent(refOf(dataset))}`}>
                      <strong>{dataset.name}</strong>
                    </Link>
                    <span className="faint"> @{dataset.version}</span>{" "}
                    {dataset.refused && dataset.refused.rows > 0 && (
                      <Badge tone="warn">{t("upload.refused", { n: number(dataset.refused.rows) })}</Badge>
                    )}
                  </td>
                  <td className="num">{number(dataset.rows)}</td>
                  <td className="num">{bytes(dataset.bytes)}</td>
                  <td className="muted nowrap">{ago(dataset.created_at)}</td>
                  <td className="right">
                    <Link className="button small" to={`/new?dataset=${encodeURIComponent(refOf(dataset))}`}>
                      {t("train")}
                    </Link>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {list.hasNextPage && (
        <div className="body">
          <Button onPress={() => void list.fetchNextPage()}>{t("more")}</Button>
        </div>
      )}
    </Card>
  );
}

function Samples() {
  const t = useText();
  const samples = useSamples();
  return (
    <Card title={t("samples.title")}>
      <div className="stack tight">
        <p className="muted small">{t("samples.lead")}</p>
        {samples.isPending && <Loading />}
        {samples.error && <ErrorView error={samples.error} />}
        <ul className="samples">
          {samples.data?.map((sample) => (
            <SampleItem key={sample.sample} sample={sample} />
          ))}
        </ul>
      </div>
    </Card>
  );
}

function SampleItem({ sample }: { sample: SampleInfo }) {
  const t = useText();
  const say = useSentence();
  const go = useNavigate();
  const queries = useQueryClient();
  const [busy, setBusy] = useState(false);
  return (
    <li>
      <div className="grow">
        <strong>{say(sample.title)}</strong>
        <div className="small muted">
          {t(sample.task === "classification" ? "task.classification" : "task.regression")} ·{" "}
          {t("rows.count", { n: number(sample.rows) })}
        </div>
      </div>
      <Button
        small
        disabled={busy}
        label={`${t("samples.use")}: ${say(sample.title)}`}
        onPress={() => {
          setBusy(true);
          makeSample({ sample: sample.sample })
            .then((made) => {
              void queries.invalidateQueries({ queryKey: ["datasets"] });
              return go(`/datasets/${encodeURIComponent(refOf(made))}`);
            })
            .catch(showError)
            .finally(() => setBusy(false));
        }}
      >
        {t("samples.use")}
      </Button>
    </li>
  );
}
