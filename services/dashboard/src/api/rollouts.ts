import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { get, post, seg } from "./client";
import type { RolloutDetail, RolloutInfo, RolloutPage } from "./types";

const path = (model: string, ...more: string[]): string => ["/api/v1/models", seg(model), "rollouts", ...more.map(seg)].join("/");

export const useRollouts = (model: string): UseQueryResult<RolloutPage> =>
  useQuery({
    queryKey: ["model", model, "rollouts"],
    queryFn: ({ signal }) => get<RolloutPage>(path(model), { limit: 20 }, signal),
    refetchInterval: 5000,
  });

export const useRollout = (model: string, id: string, active: boolean): UseQueryResult<RolloutDetail> =>
  useQuery({
    queryKey: ["model", model, "rollouts", id],
    queryFn: ({ signal }) => get<RolloutDetail>(path(model, id), undefined, signal),
    refetchInterval: active ? 2000 : false,
  });

export interface NewRollout {
  to: number;
  kind: "rollout" | "ab";
  steps: number[];
  hold: number;
  deadline: number;
  shadow: boolean;
}

export const startRollout = (model: string, asked: NewRollout): Promise<RolloutInfo> => post<RolloutInfo>(path(model), asked);
export const changeRollout = (model: string, id: string, action: "pause" | "resume" | "abort" | "promote"): Promise<RolloutInfo> =>
  post<RolloutInfo>(path(model, id, action));
