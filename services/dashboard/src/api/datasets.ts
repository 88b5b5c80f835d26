import { useInfiniteQuery, useQueries, useQuery, type UseQueryResult } from "@tanstack/react-query";
import { get, patch, post, seg } from "./client";
import type { ConnectionInfo, DatasetDetail, DatasetInfo, DatasetPage, Kind, Profile, Relations, RowsPage, RunDetail, SampleInfo } from "./types";

const ROOT = "/api/v1/datasets";

/** Datasets, the newest first; without those of the playground unless asked. */
export const useDatasets = (limit = 50, playground = false) =>
  useInfiniteQuery({
    queryKey: ["datasets", limit, playground],
    queryFn: ({ pageParam, signal }) => get<DatasetPage>(ROOT, { limit, playground: String(playground), cursor: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
  });

export const useDataset = (ref: string | null): UseQueryResult<DatasetDetail> =>
  useQuery({
    queryKey: ["dataset", ref],
    queryFn: ({ signal }) => get<DatasetDetail>(`${ROOT}/${seg(ref ?? "")}`, undefined, signal),
    enabled: ref !== null && ref !== "",
  });

/** The versions of a name that the caller can read, the newest first. */
export const useVersions = (name: string): UseQueryResult<DatasetInfo[]> =>
  useQuery({
    queryKey: ["datasets", "versions", name],
    queryFn: async ({ signal }) => (await get<DatasetPage>(ROOT, { name, limit: 500 }, signal)).items,
  });

const PROFILED = 100; // columns of an answer, the most that the server gives

/** The profiles of columns by their names; of a wide table, those at some places and their neighbours. */
export function useProfiles(ref: string, places: readonly number[]): { columns: Profile["columns"]; error: Error | null } {
  const parts = [...new Set(places.map((place) => Math.floor(place / PROFILED)))];
  return useQueries({
    queries: parts.map((part) => ({
      queryKey: ["profile", ref, part],
      queryFn: ({ signal }: { signal: AbortSignal }) => get<Profile>(`${ROOT}/${seg(ref)}/profile`, { limit: PROFILED, offset: part * PROFILED }, signal),
      staleTime: Number.POSITIVE_INFINITY,
    })),
    combine: together,
  });
}

const together = (answers: UseQueryResult<Profile>[]) => ({
  columns: Object.assign({}, ...answers.map((answer) => answer.data?.columns)) as Profile["columns"],
  error: answers.find((answer) => answer.error)?.error ?? null,
});

export const useRows = (ref: string, limit: number) =>
  useInfiniteQuery({
    queryKey: ["rows", ref, limit],
    queryFn: ({ pageParam, signal }) => get<RowsPage>(`${ROOT}/${seg(ref)}/rows`, { limit, cursor: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    enabled: ref !== "",
  });

export const useRelations = (ref: string, target: string): UseQueryResult<Relations> =>
  useQuery({
    queryKey: ["relations", ref, target],
    queryFn: ({ signal }) => get<Relations>(`${ROOT}/${seg(ref)}/relations`, { target }, signal),
    staleTime: Number.POSITIVE_INFINITY,
    enabled: target !== "",
  });

export const useSamples = (): UseQueryResult<SampleInfo[]> =>
  useQuery({
    queryKey: ["samples"],
    queryFn: async ({ signal }) => {
      const found = await get<SampleInfo[] | { items: SampleInfo[] }>(`${ROOT}/samples`, undefined, signal);
      return Array.isArray(found) ? found : found.items;
    },
    staleTime: Number.POSITIVE_INFINITY,
  });

export interface SampleRequest {
  sample: string;
  name?: string;
  noise?: number;
  rows?: number;
  seed?: number;
  derived?: boolean;
}

export const makeSample = (request: SampleRequest): Promise<DatasetInfo> => post<DatasetInfo>(`${ROOT}/samples`, request);

export type Source =
  | { sql: { connection: string; query: string } }
  | { https: { url: string } }
  | { delta: { connection: string; path: string } }
  | { s3: { connection: string; path: string } };

/** The connections that a source can name, once they are wanted. */
export const useConnections = (wanted: boolean): UseQueryResult<ConnectionInfo[]> =>
  useQuery({
    queryKey: ["connections"],
    queryFn: async ({ signal }) => (await get<{ items: ConnectionInfo[] }>("/api/v1/connections", undefined, signal)).items,
    enabled: wanted,
  });

/** What an import is answered with: a dataset, or the run that makes one. */
export type Imported = DatasetDetail | RunDetail;
export const isImportRun = (made: Imported): made is RunDetail => "resolved" in made;

export const importTable = (name: string, source: Source): Promise<Imported> => post<Imported>(ROOT, { name, source });

/** Read a dataset's source again: the same dataset where that has not changed. */
export const refreshDataset = (ref: string): Promise<Imported> => post<Imported>(`${ROOT}/${seg(ref)}/refresh`, {});

export const correctKinds = (ref: string, kinds: Record<string, Kind>): Promise<DatasetDetail> =>
  patch<DatasetDetail>(`${ROOT}/${seg(ref)}`, { kinds });

export const shareDataset = (ref: string, shared: boolean): Promise<DatasetDetail> => patch<DatasetDetail>(`${ROOT}/${seg(ref)}`, { shared });

/** Turn a file name into a valid dataset name: `Titanic (1).CSV.gz` becomes `titanic-1`. */
export function nameOf(fileName: string): string {
  const stem = fileName.toLowerCase().replace(/\.(gz|gzip|zst|zstd)$/, "").replace(/\.[a-z][a-z0-9]{0,8}$/, "");
  const plain = stem.normalize("NFKD").replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "");
  return plain.slice(0, 63) || "table";
}

/** How specs and addresses name a version. */
export const refOf = (dataset: { name: string; version: number }): string => `${dataset.name}@${dataset.version}`;
