/** Uploads with progress: small tables in one request, large ones in pieces, so an interrupted upload can resume. */

import { currentText } from "../i18n";
import { address, ApiError, call, get, problemOf, seg } from "./client";
import type { DatasetInfo } from "./types";

/** Import options, for tables whose format is not detected: some of the upload's parameters. */
export interface UploadOptions {
  delimiter?: string | null;
  encoding?: string | null;
  decimal?: "." | "," | null;
  header?: boolean | null;
  quote?: string | null;
  comment?: string | null;
  skip_rows?: number | null;
  footer?: number | null;
  lenient?: boolean;
}

export interface UploadProgress {
  sent: number;
  total: number;
  bytesPerSecond: number;
  /** The connection broke; the upload retries. */
  waiting?: boolean;
}

export interface UploadRequest {
  name: string;
  options: UploadOptions;
}

/** Bytes from which an upload is resumable, and bytes of each piece. */
export const PIECE = 4 * 1024 * 1024;
const TRIES = 8; // in a row, without a byte sent

type Progress = (progress: UploadProgress) => void;

export const uploadTable = (file: File, request: UploadRequest, onProgress: Progress, signal: AbortSignal): Promise<DatasetInfo> =>
  file.size > PIECE ? resumable(file, request, onProgress, signal) : whole(file, request, onProgress, signal);

const query = (options: UploadOptions): Record<string, string> =>
  Object.fromEntries(Object.entries(options).flatMap(([name, value]) => (value === null || value === undefined || value === "" ? [] : [[name, String(value)]])));

function whole(file: File, { name, options }: UploadRequest, onProgress: Progress, signal: AbortSignal): Promise<DatasetInfo> {
  const started = performance.now();
  return send("PUT", address(`/api/v1/datasets/${seg(name)}`, query(options)), file, { "Content-Type": "application/octet-stream" }, signal, (sent) =>
    onProgress({ sent, total: file.size, bytesPerSecond: rate(sent, started) }),
  ).then((request) => JSON.parse(request.responseText) as DatasetInfo);
}

const rate = (bytes: number, started: number): number => (1000 * bytes) / Math.max(1, performance.now() - started);

/** tus 1.0.0. The upload's address is stored with the file's properties, so choosing the same file again resumes it. */
async function resumable(file: File, request: UploadRequest, onProgress: Progress, signal: AbortSignal): Promise<DatasetInfo> {
  const key = `fitserve.upload|${request.name}|${file.name}|${file.size}|${file.lastModified}|${JSON.stringify(query(request.options))}`;
  let location = localStorage.getItem(key);
  let offset = location === null ? null : await offsetOf(location, signal);
  if (location === null || offset === null) {
    location = await begin(file, request, signal);
    offset = 0;
    localStorage.setItem(key, location);
  }
  const [started, from] = [performance.now(), offset];
  const report = (sent: number, waiting = false) => onProgress({ sent, total: file.size, bytesPerSecond: rate(sent - from, started), waiting });
  for (let tries = 0; ; ) {
    const at: number = offset;
    try {
      const piece = file.slice(at, at + PIECE);
      const headers = { "Content-Type": "application/offset+octet-stream", "Tus-Resumable": "1.0.0", "Upload-Offset": String(at) };
      const done = await send("PATCH", location, piece, headers, signal, (sent) => report(at + sent));
      const made = done.getResponseHeader("Content-Location");
      offset = Number(done.getResponseHeader("Upload-Offset") ?? at + piece.size);
      tries = 0;
      if (made !== null) {
        localStorage.removeItem(key);
        return await get<DatasetInfo>(made);
      }
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      const again = !signal.aborted && [0, 409, 423, 429, 502, 503, 504].includes(status);
      if (status >= 400 && !again) localStorage.removeItem(key);
      if (!again || (tries += 1) > TRIES) throw error;
      report(at, true);
      await pause(Math.min(10_000, 300 * 2 ** tries), signal);
      offset = (await offsetOf(location, signal).catch(() => at)) ?? at;
    }
  }
}

async function begin(file: File, { name, options }: UploadRequest, signal: AbortSignal): Promise<string> {
  const fields = { name, filename: file.name, ...query(options) };
  const metadata = Object.entries(fields)
    .map(([key, value]) => `${key} ${base64(value)}`)
    .join(",");
  const headers = { "Tus-Resumable": "1.0.0", "Upload-Length": String(file.size), "Upload-Metadata": metadata };
  const request = await send("POST", "/api/v1/uploads", null, headers, signal, () => undefined);
  return request.getResponseHeader("Location") ?? "";
}

/** The number of bytes the server has; null if it does not know the upload, or no longer does. */
async function offsetOf(location: string, signal: AbortSignal): Promise<number | null> {
  try {
    const info = await call<{ offset: number; dataset_id: string | null }>("GET", location, { signal });
    return info.dataset_id === null ? info.offset : null;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 410)) return null;
    throw error;
  }
}

function base64(text: string): string {
  return btoa(String.fromCodePoint(...new TextEncoder().encode(text)));
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(stopped());
    });
  });
}

const stopped = (): ApiError => new ApiError({ title: "Stopped", status: 0, detail: currentText("upload.stopped") });

/** Send a body with progress, which `fetch` cannot report. Throws ApiError for every response that is not 2xx. */
function send(method: string, path: string, body: Blob | null, headers: Record<string, string>, signal: AbortSignal, onSent: (bytes: number) => void): Promise<XMLHttpRequest> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(stopped());
      return;
    }
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open(method, path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve(request);
      else reject(new ApiError(problemOf(request.status, request.statusText, request.responseText)));
    };
    request.onerror = () => reject(new ApiError({ title: "Offline", status: 0, detail: currentText("upload.broken") }));
    request.onabort = () => reject(stopped());
    signal.addEventListener("abort", stop);
    request.send(body);
  });
}
