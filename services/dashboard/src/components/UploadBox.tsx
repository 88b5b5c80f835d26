import { useQueryClient } from "@tanstack/react-query";
import { useRef, useState } from "react";
import { DropZone, FileTrigger } from "react-aria-components";
import { Link } from "react-router";
import type { ApiError } from "../api/client";
import { nameOf } from "../api/datasets";
import type { DatasetInfo } from "../api/types";
import { uploadTable, type UploadOptions, type UploadProgress } from "../api/upload";
import { bytes, number, seconds } from "../format";
import { useText } from "../i18n";
import { Badge, Button, Notice, ProblemLine, Scroll } from "./basics";
import { Icon } from "./icons";
import { Notices } from "./Notices";
import { UploadOptionsForm } from "./UploadOptions";

interface Sending {
  id: number;
  file: File;
  name: string;
  progress: UploadProgress | null;
  done: DatasetInfo | null;
  error: ApiError | null;
  stop: AbortController;
}

/** Uploads dropped or chosen tables, showing each one's progress and errors. */
export function UploadBox() {
  const t = useText();
  const queries = useQueryClient();
  const [sendings, setSendings] = useState<readonly Sending[]>([]);
  const [options, setOptions] = useState<UploadOptions>({});
  const counter = useRef(0);
  const change = (id: number, part: Partial<Sending>) =>
    setSendings((all) => all.map((one) => (one.id === id ? { ...one, ...part } : one)));

  const send = (file: File, name: string, lenient: boolean, id?: number) => {
    const own = id ?? (counter.current += 1);
    const stop = new AbortController();
    const start: Sending = { id: own, file, name, progress: null, done: null, error: null, stop };
    setSendings((all) => [start, ...all.filter((one) => one.id !== own)]);
    uploadTable(file, { name, options: { ...options, ...(lenient && { lenient }) } }, (progress) => change(own, { progress }), stop.signal).then(
      (done) => {
        change(own, { done });
        void queries.invalidateQueries({ queryKey: ["datasets"] });
      },
      (error: unknown) => change(own, { error: error as ApiError }),
    );
  };
  const take = (files: readonly File[]) => files.forEach((file) => send(file, nameOf(file.name), false));

  return (
    <div className="stack">
      <DropZone
        className="dropzone"
        aria-label={t("upload.drop")}
        onDrop={(event) => {
          void Promise.all(event.items.filter((item) => item.kind === "file").map((item) => item.getFile())).then(take);
        }}
      >
        <Icon name="upload" />
        <strong>{t("upload.drop")}</strong>
        <span className="muted small">{t("upload.formats")}</span>
        <FileTrigger allowsMultiple onSelect={(files) => files && take([...files])}>
          <Button tone="primary">{t("upload.choose")}</Button>
        </FileTrigger>
      </DropZone>
      <UploadOptionsForm options={options} onChange={setOptions} />
      {sendings.map((sending) => (
        <SendingView
          key={sending.id}
          sending={sending}
          onAgain={(name, lenient) => send(sending.file, name, lenient, sending.id)}
          onDismiss={() => setSendings((all) => all.filter((one) => one.id !== sending.id))}
        />
      ))}
    </div>
  );
}

interface ViewProps {
  sending: Sending;
  onAgain: (name: string, lenient: boolean) => void;
  onDismiss: () => void;
}

function SendingView({ sending, onAgain, onDismiss }: ViewProps) {
  const t = useText();
  const { file, progress, done, error, stop } = sending;
  const share = progress && progress.total > 0 ? progress.sent / progress.total : 0;
  const problems = error?.problem.errors ?? [];
  return (
    <div className="card sending" aria-live="polite">
      <div className="body stack tight">
        <div className="row between">
          <div className="row tight grow">
            <strong className="clip">{file.name}</strong>
            <span className="faint small">{bytes(file.size)}</span>
          </div>
          {!done && !error && (
            <Button small onPress={() => stop.abort()}>
              {t("upload.stop")}
            </Button>
          )}
          {(done || error) && (
            <Button small tone="quiet" onPress={onDismiss}>
              {t("close")}
            </Button>
          )}
        </div>
        {!done && !error && (
          <>
            <div className="progress" role="progressbar" aria-label={file.name} aria-valuenow={Math.round(100 * share)} aria-valuemin={0} aria-valuemax={100}>
              <div style={{ width: `${100 * share}%` }} />
            </div>
            <span className="small muted num">
              {share >= 1
                ? t("upload.reading")
                : progress?.waiting
                  ? t("upload.waiting", { sent: bytes(progress.sent) })
                  : progress
                  ? t("upload.rate", {
                      sent: bytes(progress.sent),
                      rate: bytes(progress.bytesPerSecond),
                      left: seconds((progress.total - progress.sent) / Math.max(1, progress.bytesPerSecond)),
                    })
                  : t("upload.starting")}
            </span>
          </>
        )}
        {done && (
          <div className="row">
            <Badge tone="good">{t("upload.done")}</Badge>
            <Link to={`/datasets/${encodeURIComponent(`${done.name}@${done.version}`)}`}>
              {done.name}@{done.version}
            </Link>
            <span className="muted small">{t("rows.count", { n: number(done.rows) })}</span>
            {done.refused && done.refused.rows > 0 && <Badge tone="warn">{t("upload.refused", { n: number(done.refused.rows) })}</Badge>}
            <span className="grow" />
            <Link className="button small primary" to={`/new?dataset=${encodeURIComponent(`${done.name}@${done.version}`)}`}>
              {t("train.on")}
            </Link>
          </div>
        )}
        {done && <Notices notices={done.notices} />}
        {error && (
          <div role="alert" className="stack tight">
            <Notice tone="bad">
              <ProblemLine item={error.problem} />
            </Notice>
            {problems.length > 0 && (
              <Scroll>
                <table className="table dense">
                  <thead>
                    <tr>
                      <th scope="col" className="num">{t("upload.row")}</th>
                      <th scope="col">{t("upload.column")}</th>
                      <th scope="col">{t("upload.problem")}</th>
                      <th scope="col">{t("problem.received")}</th>
                      <th scope="col">{t("problem.expected")}</th>
                    </tr>
                  </thead>
                  <tbody>
                    {problems.map((problem, index) => (
                      <tr key={index}>
                        <td className="num">{problem.row ?? problem.line ?? ""}</td>
                        <td>{problem.column ?? ""}</td>
                        <td>
                          {problem.detail}
                          {problem.fix && <div className="small muted">→ {problem.fix}</div>}
                        </td>
                        <td>
                          <code>{problem.received === undefined ? "" : String(problem.received).slice(0, 80)}</code>
                        </td>
                        <td>{problem.expected ?? ""}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </Scroll>
            )}
            <div className="row">
              <Button small onPress={() => onAgain(sending.name, false)}>
                {t("retry")}
              </Button>
              {problems.length > 0 && (
                <Button small onPress={() => onAgain(sending.name, true)}>
                  {t("upload.lenient")}
                </Button>
              )}
            </div>
          </div>
        )}
      </div>
    </div>
  );
}
