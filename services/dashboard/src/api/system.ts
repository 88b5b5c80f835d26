import { keepPreviousData, useInfiniteQuery, useQuery, type UseQueryResult } from "@tanstack/react-query";
import { del, get, post, seg } from "./client";
import type { AlarmPage, AuditPage, KeyInfo, NewKey, OwnerStorage, SystemHistory, SystemInfo } from "./types";

export type Window = "hour" | "day";

export const useSystem = (enabled: boolean): UseQueryResult<SystemInfo> =>
  useQuery({ queryKey: ["system"], queryFn: ({ signal }) => get<SystemInfo>("/api/v1/system", undefined, signal), refetchInterval: 3000, enabled });

export const useSystemHistory = (window: Window): UseQueryResult<SystemHistory> =>
  useQuery({
    queryKey: ["system-history", window],
    queryFn: ({ signal }) => get<SystemHistory>("/api/v1/system/history", { window }, signal),
    refetchInterval: 15_000,
    placeholderData: keepPreviousData,
  });

export const useStorage = (): UseQueryResult<OwnerStorage[]> =>
  useQuery({ queryKey: ["storage"], queryFn: ({ signal }) => get<OwnerStorage[]>("/api/v1/system/storage", undefined, signal), refetchInterval: 60_000 });

export const useAlarms = () =>
  useInfiniteQuery({
    queryKey: ["alarms"],
    queryFn: ({ pageParam, signal }) => get<AlarmPage>("/api/v1/system/alarms", { limit: 50, cursor: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    refetchInterval: 15_000,
  });

/** What is asked of the audit log; an empty text asks for nothing. */
export interface AuditQuery {
  search: string;
  owner: string;
  method: string;
  outcome: string;
  since: string;
  until: string;
}

export const useAudit = (query: AuditQuery) =>
  useInfiniteQuery({
    queryKey: ["audit", query],
    queryFn: ({ pageParam, signal }) =>
      get<AuditPage>(
        "/api/v1/audit",
        { ...Object.fromEntries(Object.entries(query).filter(([, value]) => value !== "")), limit: 50, cursor: pageParam },
        signal,
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    placeholderData: keepPreviousData,
  });

export const useKeys = (): UseQueryResult<KeyInfo[]> =>
  useQuery({
    queryKey: ["keys"],
    queryFn: async ({ signal }) => {
      const found = await get<KeyInfo[] | { items: KeyInfo[] }>("/api/v1/keys", undefined, signal);
      return Array.isArray(found) ? found : found.items;
    },
  });

export const useLimits = (): UseQueryResult<Record<string, number | string>> =>
  useQuery({
    queryKey: ["limits"],
    queryFn: ({ signal }) => get<Record<string, number | string>>("/api/v1/limits", undefined, signal),
    staleTime: Number.POSITIVE_INFINITY,
  });

export const makeKey = (name: string, owner: string, scopes: string[]): Promise<NewKey> =>
  post<NewKey>("/api/v1/keys", { name, scopes, ...(owner && { owner }) });
export const revokeKey = (id: string): Promise<KeyInfo> => del<KeyInfo>(`/api/v1/keys/${seg(id)}`);
