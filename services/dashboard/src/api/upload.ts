/** Tables sent with progress: small ones in one request, large ones piece by piece, so that a break can be resumed. */

import { address, ApiError, call, get, problemOf, seg } from "./client";
import type { DatasetInfo } from "./types";

/** How a table is to be read, where it is not recognised: some of the upload's parameters. */
export interface UploadOptions {
  delimiter?: string | null;
  encoding?: string | null;
  decimal?: "." | "," | null;
  header?: boolean | null;
  lenient?: boolean;
}

export interface UploadProgress {
  sent: number;
  total: number;
  bytesPerSecond: number;
  /** The connection broke; it is tried again by itself. */
  waiting?: boolean;
}

export interface UploadWish {
  name: string;
  options: UploadOptions;
}

/** Bytes from which on an upload is resumable, and of each of its pieces. */
export const PIECE = 4 * 1024 * 1024;
const TRIES = 8; // one after another without a byte between

type Progress = (progress: UploadProgress) => void;

export const uploadTable = (file: File, wish: UploadWish, onProgress: Progress, signal: AbortSignal): Promise<DatasetInfo> =>
  file.size > PIECE ? resumable(file, wish, onProgress, signal) : whole(file, wish, onProgress, signal);

const query = (options: UploadOptions): Record<string, string> =>
  Object.fromEntries(Object.entries(options).flatMap(([name, value]) => (value === null || value === undefined || value === "" ? [] : [[name, String(value)]])));

function whole(file: File, { name, options }: UploadWish, onProgress: Progress, signal: AbortSignal): Promise<DatasetInfo> {
  const started = performance.now();
  return send("PUT", address(`/api/v1/datasets/${seg(name)}`, query(options)), file, { "Content-Type": "application/octet-stream" }, signal, (sent) =>
    onProgress({ sent, total: file.size, bytesPerSecond: rate(sent, started) }),
  ).then((request) => JSON.parse(request.responseText) as DatasetInfo);
}

const rate = (bytes: number, started: number): number => (1000 * bytes) / Math.max(1, performance.now() - started);

/** tus 1.0.0. The upload's address is kept beside the file's traits: the same file, chosen again, goes on where it stood. */
async function resumable(file: File, wish: UploadWish, onProgress: Progress, signal: AbortSignal): Promise<DatasetInfo> {
  const key = `fitserve.upload|${wish.name}|${file.name}|${file.size}|${file.lastModified}|${JSON.stringify(query(wish.options))}`;
  let place = localStorage.getItem(key);
  let offset = place === null ? null : await offsetOf(place, signal);
  if (place === null || offset === null) {
    place = await begin(file, wish, signal);
    offset = 0;
    localStorage.setItem(key, place);
  }
  const [started, from] = [performance.now(), offset];
  const tell = (sent: number, waiting = false) => onProgress({ sent, total: file.size, bytesPerSecond: rate(sent - from, started), waiting });
  for (let tries = 0; ; ) {
    const at: number = offset;
    try {
      const piece = file.slice(at, at + PIECE);
      const headers = { "Content-Type": "application/offset+octet-stream", "Tus-Resumable": "1.0.0", "Upload-Offset": String(at) };
      const done = await send("PATCH", place, piece, headers, signal, (sent) => tell(at + sent));
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
      tell(at, true);
      await pause(Math.min(10_000, 300 * 2 ** tries), signal);
      offset = (await offsetOf(place, signal).catch(() => at)) ?? at;
    }
  }
}

async function begin(file: File, { name, options }: UploadWish, signal: AbortSignal): Promise<string> {
  const told = { name, filename: file.name, ...query(options) };
  const metadata = Object.entries(told)
    .map(([key, value]) => `${key} ${base64(value)}`)
    .join(",");
  const headers = { "Tus-Resumable": "1.0.0", "Upload-Length": String(file.size), "Upload-Metadata": metadata };
  const request = await send("POST", "/api/v1/uploads", null, headers, signal, () => undefined);
  return request.getResponseHeader("Location") ?? "";
}

/** How many bytes the server has; null where it knows nothing of the upload (any more). */
async function offsetOf(place: string, signal: AbortSignal): Promise<number | null> {
  try {
    const info = await call<{ offset: number; dataset_id: string | null }>("GET", place, { signal });
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

const stopped = (): ApiError => new ApiError({ title: "Stopped", status: 0, detail: "The upload was stopped." });

/** A body sent with progress, which `fetch` cannot tell. Raises ApiError for every answer that is not 2xx. */
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
    request.onerror = () => reject(new ApiError({ title: "No answer", status: 0, detail: "The upload was broken off." }));
    request.onabort = () => reject(stopped());
    signal.addEventListener("abort", stop);
    request.send(body);
  });
}
