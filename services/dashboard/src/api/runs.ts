import { keepPreviousData, useInfiniteQuery, useQuery, type UseQueryResult } from "@tanstack/react-query";
import type { EpochRow } from "../charts/curves";
import { ApiError, call, get, patch, post, seg } from "./client";
import { newId } from "./newId";
import type { BulkOutcome, IdPage, LayerSeries, RowWalk, RunDetail, RunInfo, RunPage, Validation } from "./types";

const ROOT = "/api/v1/runs";

export const LIVE = new Set(["queued", "running"]);
export const isLive = (run: { state: string }): boolean => LIVE.has(run.state);

export type ListQuery = Record<string, string>;

export interface RunFilter {
  state?: string;
  model?: string;
  dataset?: string;
  dataset_id?: string;
  playground?: string;
}

export const useRuns = (filter: RunFilter = {}, limit = 50) =>
  useInfiniteQuery({
    queryKey: ["runs", filter, limit],
    queryFn: ({ pageParam, signal }) => get<RunPage>(ROOT, { limit, playground: "false", cursor: pageParam, ...filter }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    refetchInterval: (query) =>
      query.state.data?.pages.some((page) => page.items.some(isLive)) ? 1500 : 15_000,
  });

/** One page of a list in any order, by place. */
export const runsAt = (query: ListQuery, page: number, size: number) => ({
  queryKey: ["runs", "at", query, page, size] as const,
  queryFn: ({ signal }: { signal: AbortSignal }) =>
    get<RunPage>(ROOT, { ...query, changes: true, count: page === 0, limit: size, offset: page * size }, signal),
});

const ORDER = new Set(["sort", "descending", "metric"]);

/** The ids of all runs that a filter lets through. */
export async function allIds(query: ListQuery): Promise<string[]> {
  const filter = Object.fromEntries(Object.entries(query).filter(([name]) => !ORDER.has(name)));
  const ids: string[] = [];
  let cursor: string | null = null;
  do {
    const page: IdPage = await get<IdPage>("/api/v1/run-ids", { ...filter, cursor });
    ids.push(...page.items);
    cursor = page.next_cursor ?? null;
  } while (cursor !== null);
  return ids;
}

export const useTags = (): UseQueryResult<string[]> =>
  useQuery({ queryKey: ["run-tags"], queryFn: ({ signal }) => get<string[]>("/api/v1/run-tags", undefined, signal), staleTime: 15_000 });

export type BulkAction = "cancel" | "delete" | "tag" | "untag";

const BULK = 500; // a second or so: progress is seen, and nobody waits for the server meanwhile

/** Change many runs, part by part; `onPart` gets the outcome of each part, also where a later one fails. */
export async function changeMany(action: BulkAction, ids: readonly string[], tag: string | undefined, onPart: (part: BulkOutcome) => void): Promise<void> {
  for (let at = 0; at < ids.length; at += BULK) {
    onPart(await post<BulkOutcome>(`${ROOT}/bulk`, { action, runs: ids.slice(at, at + BULK), tag: tag ?? null }));
  }
}

export interface About {
  name: string | null;
  tags: string[];
  notes: string | null;
}

export const annotate = (id: string, about: About): Promise<RunDetail> => patch<RunDetail>(`${ROOT}/${seg(id)}`, about);

export const runQuery = (id: string) => ({
  queryKey: ["run", id],
  queryFn: ({ signal }: { signal: AbortSignal }) => get<RunDetail>(`${ROOT}/${seg(id)}`, undefined, signal),
});

/** Several runs with everything about them, in one answer; those that are gone are left out. */
export const useRunDetails = (ids: readonly string[]): UseQueryResult<RunDetail[]> =>
  useQuery({
    queryKey: ["run-details", ids],
    queryFn: ({ signal }) => get<RunDetail[]>("/api/v1/run-details", { run: ids }, signal),
    enabled: ids.length > 0,
    placeholderData: keepPreviousData,
    refetchInterval: (query) => (query.state.data?.some(isLive) ? 2000 : false),
  });

/** A row and the weights of a small network. */
export const useWalk = (id: string, row: number): UseQueryResult<RowWalk> =>
  useQuery({
    queryKey: ["walk", id, row],
    queryFn: ({ signal }) => get<RowWalk>(`${ROOT}/${seg(id)}/walk`, { row }, signal),
    staleTime: Number.POSITIVE_INFINITY,
    placeholderData: keepPreviousData,
    retry: false,
  });

export const useRun = (id: string): UseQueryResult<RunDetail> =>
  useQuery({
    ...runQuery(id),
    enabled: id !== "",
    refetchInterval: (query) => (query.state.data && isLive(query.state.data) ? 2000 : false),
  });

/** All of a run's epochs, page by page. */
export async function allEpochs(id: string, signal?: AbortSignal, onRows?: (rows: EpochRow[]) => void): Promise<EpochRow[]> {
  const rows: EpochRow[] = [];
  let cursor: string | null = null;
  do {
    const page: { items: EpochRow[]; next_cursor: string | null } = await get(`${ROOT}/${seg(id)}/epochs`, { limit: 1000, cursor }, signal);
    rows.push(...page.items);
    onRows?.(page.items);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return rows;
}

/** Validate a spec on the server without running it. */
export async function validate(text: string, signal?: AbortSignal): Promise<Validation> {
  return call<Validation>("POST", ROOT, {
    body: text,
    query: { validate_only: true },
    headers: { "Content-Type": "application/yaml" },
    signal,
  });
}

/** What its owner calls a run that is about to start. */
export interface Named {
  name: string;
  tags: readonly string[];
}

export const setNotes = (id: string, notes: string): Promise<RunDetail> => patch<RunDetail>(`${ROOT}/${seg(id)}`, { notes });

export const submit = (text: string, { name, tags }: Named): Promise<RunInfo> =>
  call<RunInfo>("POST", ROOT, {
    body: text,
    query: { ...(name !== "" && { name }), ...(tags.length > 0 && { tag: tags }) },
    headers: { "Content-Type": "application/yaml", "Idempotency-Key": newId() },
  });

/** Submit a spec given as an object, for runs that a page creates. */
export const submitSpec = (spec: unknown, signal?: AbortSignal): Promise<RunInfo> =>
  call<RunInfo>("POST", ROOT, { body: spec, headers: { "Idempotency-Key": newId() }, signal });

export const cancelRun = (id: string): Promise<RunInfo> => post<RunInfo>(`${ROOT}/${seg(id)}/cancel`);
export const retryRun = (id: string): Promise<RunInfo> =>
  post<RunInfo>(`${ROOT}/${seg(id)}/retry`, undefined, { headers: { "Idempotency-Key": newId() } });
export const reproduceRun = (id: string): Promise<RunInfo> =>
  post<RunInfo>(`${ROOT}/${seg(id)}/reproduce`, undefined, { headers: { "Idempotency-Key": newId() } });

export interface ForkRequest {
  epoch: number;
  learning_rate?: number | null;
  optimizer?: string;
  epochs?: number;
}

export const forkRun = (id: string, body: ForkRequest): Promise<RunInfo> =>
  post<RunInfo>(`${ROOT}/${seg(id)}/fork`, body, { headers: { "Idempotency-Key": newId() } });

/** Layer statistics of the best trial; polled while it trains. */
export const useLayers = (id: string, live: boolean): UseQueryResult<LayerSeries> =>
  useQuery({
    queryKey: ["insight", id, "layers"],
    queryFn: ({ signal }) => get<LayerSeries>(`${ROOT}/${seg(id)}/layers`, { limit: 1000 }, signal),
    refetchInterval: live ? 2000 : false,
  });

/** One part of a run's insight; null if this run has none (yet). */
export function useInsight<T>(id: string, part: string, enabled: boolean, query?: Record<string, string | number>): UseQueryResult<T | null> {
  return useQuery({
    queryKey: ["insight", id, part, query],
    queryFn: async ({ signal }) => {
      try {
        return await get<T>(`${ROOT}/${seg(id)}/${part}`, query, signal);
      } catch (error) {
        if (error instanceof ApiError && (error.status === 404 || error.status === 409)) return null;
        throw error;
      }
    },
    enabled,
    staleTime: 10_000,
  });
}
