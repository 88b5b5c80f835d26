import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { del, get, post, seg } from "./client";
import type { KeyInfo, NewKey, SystemInfo } from "./types";

export const useSystem = (enabled: boolean): UseQueryResult<SystemInfo> =>
  useQuery({ queryKey: ["system"], queryFn: ({ signal }) => get<SystemInfo>("/api/v1/system", undefined, signal), refetchInterval: 3000, enabled });

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
