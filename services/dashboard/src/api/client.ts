/** Calls to the API: typed responses, problem details as errors. */

import { currentText } from "../i18n";
import { isOutage, setAnswers } from "./connection";

export interface ProblemItem {
  detail: string;
  pointer?: string;
  parameter?: string;
  row?: number;
  line?: number;
  column?: string;
  received?: unknown;
  expected?: string;
  fix?: string;
}

/** RFC 9457 problem details as fitserve writes them. */
export interface ProblemDetails extends ProblemItem {
  type?: string;
  title: string;
  status: number;
  errors?: ProblemItem[];
  request_id?: string;
}

export class ApiError extends Error {
  constructor(readonly problem: ProblemDetails) {
    super(problem.detail);
    this.name = "ApiError";
  }
  get status(): number {
    return this.problem.status;
  }
}

export interface CallOptions {
  body?: unknown;
  query?: Record<string, string | number | boolean | readonly string[] | null | undefined>;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

export function address(path: string, query?: CallOptions["query"]): string {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null);
  if (!pairs.length) return path;
  const each = pairs.flatMap(([key, value]) => (Array.isArray(value) ? value : [value]).map((one): [string, string] => [key, String(one)]));
  return `${path}?${new URLSearchParams(each).toString()}`;
}

/** Throws ApiError for every response that is not 2xx, and when there is none. */
export async function call<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
  const { body, query, headers = {}, signal } = options;
  const isText = typeof body === "string";
  const init: RequestInit = { method, headers: { Accept: "application/json", ...headers }, credentials: "same-origin" };
  if (signal) init.signal = signal;
  if (body !== undefined) {
    init.body = isText ? body : JSON.stringify(body);
    init.headers = { ...(isText ? {} : { "Content-Type": "application/json" }), ...init.headers };
  }
  let answer: Response;
  try {
    answer = await fetch(address(path, query), init);
  } catch (error) {
    if (signal?.aborted) throw error;
    setAnswers(false);
    throw new ApiError({ title: "Offline", status: 0, detail: currentText("offline") });
  }
  setAnswers(!isOutage(answer.status));
  const text = await answer.text();
  if (!answer.ok) throw new ApiError(problemOf(answer.status, answer.statusText, text));
  return (text ? JSON.parse(text) : undefined) as T;
}

/** Problem details from a response's body, whatever it holds. */
export function problemOf(status: number, statusText: string, text: string): ProblemDetails {
  try {
    const body = JSON.parse(text) as Partial<ProblemDetails> & { error?: unknown };
    if (typeof body.detail === "string") return { title: statusText, ...body, status, detail: body.detail };
    if (typeof body.error === "string") return { title: statusText, status, detail: body.error };
  } catch {
    // Not JSON: a proxy's error page, for example.
  }
  return { title: statusText || `HTTP ${status}`, status, detail: text.slice(0, 300) || statusText || `HTTP ${status}` };
}

export const get = <T>(path: string, query?: CallOptions["query"], signal?: AbortSignal): Promise<T> =>
  call<T>("GET", path, { query, signal });
export const post = <T>(path: string, body?: unknown, options: CallOptions = {}): Promise<T> =>
  call<T>("POST", path, { ...options, body });
export const put = <T>(path: string, body?: unknown): Promise<T> => call<T>("PUT", path, { body });
export const patch = <T>(path: string, body?: unknown): Promise<T> => call<T>("PATCH", path, { body });
export const del = <T>(path: string): Promise<T> => call<T>("DELETE", path);

/** Escape a user-supplied name as a path segment. */
export const seg = (name: string): string => encodeURIComponent(name);
