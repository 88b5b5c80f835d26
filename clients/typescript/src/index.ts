/**
 * The client of fitserve: upload a table, train, watch, predict.
 *
 * `api` and `predictions` have every route of both services, typed by their OpenAPI documents; the methods are what most
 * programs need.
 */
import createClient, { type Client } from "openapi-fetch";
import type { components, paths as Control } from "./control.js";
import { eventsOf } from "./events.js";
import type { paths as Predict } from "./predict.js";

export type Dataset = components["schemas"]["DatasetDetail"];
export type Run = components["schemas"]["RunInfo"];
export type RunEvent = components["schemas"]["EventInfo"];
export type Row = Record<string, string | number | boolean | null>;
export type Spec = { dataset: string; target: string | string[]; model?: string } & Record<string, unknown>;

export interface Options {
  /** Of the API; left out: FITSERVE_URL, else this machine's. */
  url?: string;
  /** Of the prediction service; left out: FITSERVE_PREDICT_URL, else this machine's. */
  predictUrl?: string;
  /** Left out: FITSERVE_API_KEY. */
  apiKey?: string;
  /** How often a lost event stream is opened again without an event in between. */
  retries?: number;
}

/** Problem details (RFC 9457): what is wrong, where, and how to fix it. */
export interface Problem {
  title?: string;
  detail?: string;
  pointer?: string;
  received?: unknown;
  expected?: string;
  fix?: string;
  errors?: Problem[];
}

/** The server refused a request. */
export class FitserveError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super([problem.detail ?? problem.title ?? `The server answered ${status}.`, problem.fix].filter(Boolean).join(" "));
    this.name = "FitserveError";
  }
}

const ENDED = ["succeeded", "failed", "cancelled"];
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Fitserve {
  readonly api: Client<Control>;
  readonly predictions: Client<Predict>;
  private readonly url: string;
  private readonly headers: Record<string, string>;
  private readonly retries: number;

  constructor(options: Options = {}) {
    this.url = (options.url ?? process.env.FITSERVE_URL ?? "http://127.0.0.1:8000").replace(/\/$/, "");
    const predictUrl = options.predictUrl ?? process.env.FITSERVE_PREDICT_URL ?? "http://127.0.0.1:8501";
    this.headers = { Authorization: `Bearer ${options.apiKey ?? process.env.FITSERVE_API_KEY ?? ""}` };
    this.retries = options.retries ?? 10;
    this.api = createClient<Control>({ baseUrl: this.url, headers: this.headers });
    this.predictions = createClient<Predict>({ baseUrl: predictUrl, headers: this.headers });
  }

  /** Create a dataset, or a new version of one, of a file's bytes, such as CSV or Parquet. The same bytes are the same dataset. */
  async upload(name: string, table: string | Uint8Array<ArrayBuffer> | Blob, query: Record<string, string> = {}): Promise<Dataset> {
    const path = `/api/v1/datasets/${encodeURIComponent(name)}?${new URLSearchParams(query).toString()}`;
    const response = await this.send(path, { method: "PUT", body: table });
    return (await response.json()) as Dataset;
  }

  /** Submit a spec. What it leaves out is chosen well. */
  async train(spec: Spec): Promise<Run> {
    const headers = { "Idempotency-Key": crypto.randomUUID(), "Content-Type": "application/json" };
    const response = await this.send("/api/v1/runs", { method: "POST", headers, body: JSON.stringify(spec) });
    return (await response.json()) as Run;
  }

  async run(id: string): Promise<Run> {
    return value(await this.api.GET("/api/v1/runs/{run_id}", { params: { path: { run_id: id } } }));
  }

  /** Yield a run's events as they happen, until its end. A lost connection is resumed after the last event. */
  async *watch(id: string, after = ""): AsyncGenerator<RunEvent> {
    let last = after;
    for (let losses = 0; losses <= this.retries; losses++) {
      try {
        const headers: Record<string, string> = last === "" ? {} : { "Last-Event-ID": last };
        const response = await this.send(`/api/v1/runs/${encodeURIComponent(id)}/events`, {
          headers: { ...headers, Accept: "text/event-stream" },
        });
        if (response.body === null) continue;
        for await (const { id: place, data } of eventsOf(response.body)) {
          const event = JSON.parse(data) as RunEvent;
          if (place !== "") last = place;
          losses = 0;
          yield event;
          if (event.type === "state" && ENDED.includes(String(event.data.state))) return;
        }
      } catch (error) {
        if (error instanceof FitserveError && error.status < 500 && error.status !== 429) throw error;
      }
      await pause(Math.min(100 * 2 ** losses, 5_000));
    }
    throw new Error(`The events of ${id} broke off ${this.retries + 1} times in a row.`);
  }

  /** Wait for a run's end and, if it made a version, until that version answers. Throws where it did not succeed. */
  async wait(id: string, onEvent: (event: RunEvent) => void = () => {}): Promise<Run> {
    for await (const event of this.watch(id)) onEvent(event);
    const run = await this.run(id);
    if (run.state !== "succeeded") throw new FitserveError(409, (run.error ?? { detail: `The run ${run.state}.` }) as Problem);
    const version = run.result?.version;
    if (run.model !== null && version !== undefined) await this.served(run.model, String(version));
    return run;
  }

  /** Return each label's score, for each row. */
  async classify(model: string, rows: Row[]): Promise<Record<string, number>[]> {
    const body = { examples: rows };
    const answer = value(await this.predictions.POST("/v1/models/{model}:classify", { params: { path: { model } }, body }));
    return answer.results.map((pairs) => Object.fromEntries(pairs as [string, number][]));
  }

  /** Return the network's outputs, for each row. */
  async predict(model: string, rows: Row[]): Promise<unknown[]> {
    const body = { instances: rows };
    const answer = value(await this.predictions.POST("/v1/models/{model}:predict", { params: { path: { model } }, body }));
    return (answer as { predictions: unknown[] }).predictions;
  }

  /** The prediction service learns of a new version within a second or so. */
  private async served(model: string, version: string): Promise<void> {
    for (let attempt = 0; attempt < 200; attempt++) {
      const { data } = await this.predictions.GET("/v1/models/{model}", { params: { path: { model } } });
      const states = (data as { model_version_status?: { version: string; state: string }[] } | undefined)?.model_version_status;
      if (states?.some((one) => one.version === version && one.state !== "LOADING")) return;
      await pause(50);
    }
  }

  private async send(path: string, init: RequestInit): Promise<Response> {
    const response = await fetch(this.url + path, { ...init, headers: { ...this.headers, ...(init.headers as Record<string, string>) } });
    if (!response.ok) throw new FitserveError(response.status, await problemOf(response));
    return response;
  }
}

async function problemOf(response: Response): Promise<Problem> {
  const text = await response.text();
  try {
    return JSON.parse(text) as Problem;
  } catch {
    return { detail: text.slice(0, 300) };
  }
}

/** An answer of `openapi-fetch`, or its error. */
function value<T>({ data, error, response }: { data?: T; error?: unknown; response: Response }): T {
  if (data === undefined) {
    const problem = (error ?? {}) as Problem & { error?: string };
    throw new FitserveError(response.status, problem.error === undefined ? problem : { ...problem, detail: problem.error });
  }
  return data;
}
