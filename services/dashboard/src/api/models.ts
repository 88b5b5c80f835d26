import { keepPreviousData, useInfiniteQuery, useQuery, type UseQueryResult } from "@tanstack/react-query";
import { call, del, get, patch, post, put, seg, ApiError, problemOf } from "./client";
import { newId } from "./newId";
import { isLive } from "./runs";
import type { DecisionDetail, ExportFormat, ExportInfo, LabelInfo, ModelDetail, ModelHistory, ModelPage, PredictionRequest, RunInfo } from "./types";

const ROOT = "/api/v1/models";

export const useModels = () =>
  useInfiniteQuery({
    queryKey: ["models"],
    queryFn: ({ pageParam, signal }) => get<ModelPage>(ROOT, { limit: 200, cursor: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    refetchInterval: 15_000,
  });

export const useModel = (name: string): UseQueryResult<ModelDetail> =>
  useQuery({
    queryKey: ["model", name],
    queryFn: ({ signal }) => get<ModelDetail>(`${ROOT}/${seg(name)}`, undefined, signal),
    refetchInterval: 10_000,
    enabled: name !== "",
  });

/** What was asked of a model in the last hour or day. */
export const useModelHistory = (name: string, window: "hour" | "day", every = 15_000): UseQueryResult<ModelHistory> =>
  useQuery({
    queryKey: ["model-history", name, window],
    queryFn: ({ signal }) => get<ModelHistory>(`${ROOT}/${seg(name)}/history`, { window }, signal),
    refetchInterval: every,
    placeholderData: keepPreviousData,
    retry: false,
  });

export interface ManifestColumn {
  name: string;
  kind: string;
  fitted?: Record<string, unknown>;
}

export interface Distribution {
  kind: "numeric" | "categorical" | "text";
  missing: number;
  edges?: number[];
  shares?: number[];
  /** Absent from models of earlier releases. */
  median?: number;
  frequencies?: Record<string, number>;
}

export interface Manifest {
  task: string | null;
  encoder: { columns: ManifestColumn[] };
  outputs: { name: string; task: string; labels: string[] | null; units: number }[];
  training_distribution: Record<string, Distribution>;
  parity?: { rows: number; max_abs: number; max_rel: number };
  onnx?: { bytes: number };
  keras?: { bytes: number };
  receipt?: Record<string, unknown>;
  /** The first level answers where a request names none. */
  interval?: { levels: number[] } | null;
  metrics?: Record<string, unknown>;
}

export const useManifest = (name: string, version: number | null): UseQueryResult<Manifest> =>
  useQuery({
    queryKey: ["manifest", name, version],
    queryFn: ({ signal }) => get<Manifest>(`${ROOT}/${seg(name)}/versions/${version ?? 0}/manifest`, undefined, signal),
    enabled: version !== null,
    staleTime: Number.POSITIVE_INFINITY,
  });

const decisionPath = (name: string, version: number): string => `${ROOT}/${seg(name)}/versions/${version}/decision`;

export const useDecision = (name: string, version: number): UseQueryResult<DecisionDetail> =>
  useQuery({
    queryKey: ["decision", name, version],
    queryFn: ({ signal }) => get<DecisionDetail>(decisionPath(name, version), undefined, signal),
    staleTime: 10_000,
  });

export const setThreshold = (name: string, version: number, decision: { output: string; label: string; threshold: number }): Promise<DecisionDetail> =>
  put<DecisionDetail>(decisionPath(name, version), decision);
export const resetDecision = (name: string, version: number): Promise<DecisionDetail> => del<DecisionDetail>(decisionPath(name, version));

export const setLabel = (name: string, label: string, version: number, weight?: number): Promise<LabelInfo> =>
  put<LabelInfo>(`${ROOT}/${seg(name)}/labels/${seg(label)}`, { version, ...(weight !== undefined && { weight }) });
export const removeLabel = (name: string, label: string): Promise<unknown> => del(`${ROOT}/${seg(name)}/labels/${seg(label)}`);
export const rollback = (name: string): Promise<LabelInfo> => post<LabelInfo>(`${ROOT}/${seg(name)}/rollback`);
export const setLoaded = (name: string, loaded: boolean): Promise<ModelDetail> => patch<ModelDetail>(`${ROOT}/${seg(name)}`, { loaded });
/** What other owners may do with a model; null: nothing. */
export const shareModel = (name: string, sharing: "ask" | "inspect" | "download" | null, openFeedback: boolean): Promise<ModelDetail> =>
  patch<ModelDetail>(`${ROOT}/${seg(name)}`, { ...(sharing === null ? { shared: false } : { sharing }), open_feedback: openFeedback });
export const retire = (name: string, version: number): Promise<unknown> => del(`${ROOT}/${seg(name)}/versions/${version}`);

/** Have the workers predict all rows of a dataset. */
export const predictTable = (name: string, body: PredictionRequest): Promise<RunInfo> =>
  post<RunInfo>(`${ROOT}/${seg(name)}/predictions`, body, { headers: { "Idempotency-Key": newId() } });

export interface PredictionAnswer {
  predictions: unknown[];
  version: string | null;
  warnings: { column?: string; message?: string }[];
  milliseconds: number;
}

export const predictPath = (name: string, version: number | null, verb: string): string =>
  `/v1/models/${seg(name)}${version === null ? "" : `/versions/${version}`}:${verb}`;

/** Predict over TensorFlow Serving's REST protocol, as any client would. Under an id, the answer is stored for its truth. */
export async function predict(name: string, version: number | null, rows: unknown[], signal?: AbortSignal, interval: number | false | null = null, id: string | null = null): Promise<PredictionAnswer> {
  const started = performance.now();
  const init: RequestInit = {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(id !== null && { "X-Prediction-ID": id }) },
    body: JSON.stringify({ instances: rows, ...(interval !== null && { interval }) }),
    ...(signal && { signal }),
  };
  const answer = await fetch(predictPath(name, version, "predict"), init);
  const text = await answer.text();
  if (!answer.ok) throw new ApiError(problemOf(answer.status, answer.statusText, text));
  const body = JSON.parse(text) as { predictions: unknown[] };
  return {
    predictions: body.predictions,
    version: answer.headers.get("x-model-version"),
    warnings: warningsOf(answer.headers.get("x-model-warnings")),
    milliseconds: performance.now() - started,
  };
}

function warningsOf(header: string | null): PredictionAnswer["warnings"] {
  try {
    const found = JSON.parse(header ?? "[]") as unknown;
    return Array.isArray(found) ? (found as PredictionAnswer["warnings"]) : [];
  } catch {
    return [];
  }
}

export interface Explanation {
  explanations: Record<string, Record<string, number[]>>[];
  baseline: { outputs: Record<string, number[]> };
}

export const explain = (name: string, version: number | null, row: unknown, signal?: AbortSignal): Promise<Explanation> =>
  call<Explanation>("POST", predictPath(name, version, "explain"), { body: { instances: [row] }, signal });

const exportsOf = (name: string, version: number): string => `${ROOT}/${seg(name)}/versions/${version}/exports`;

/** The newest export of each format; asked again while one is being made. */
export const useExports = (name: string, version: number): UseQueryResult<ExportInfo[]> =>
  useQuery({
    queryKey: ["exports", name, version],
    queryFn: ({ signal }) => get<ExportInfo[]>(exportsOf(name, version), undefined, signal),
    refetchInterval: (query) => (query.state.data?.some(isLive) ? 1500 : false),
    retry: false,
  });

/** Have a worker make an export; one that exists is not made again. */
export const makeExport = (name: string, version: number, format: ExportFormat): Promise<RunInfo> => post<RunInfo>(exportsOf(name, version), { format });

export const exportFile = (name: string, version: number, format: ExportFormat): string => `${exportsOf(name, version)}/${seg(format)}`;
