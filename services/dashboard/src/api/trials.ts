import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { get, seg } from "./client";
import type { TrialInfo, TrialPage } from "./types";

const ROOT = "/api/v1/runs";

/** All trials of a search; polled while it runs. */
export const useTrials = (id: string, live: boolean): UseQueryResult<TrialInfo[]> =>
  useQuery({
    queryKey: ["trials", id, live],
    queryFn: async ({ signal }) => {
      const trials: TrialInfo[] = [];
      let cursor: string | null = null;
      do {
        const page: TrialPage = await get<TrialPage>(`${ROOT}/${seg(id)}/trials`, { limit: 1000, cursor }, signal);
        trials.push(...page.items);
        cursor = page.next_cursor ?? null;
      } while (cursor !== null);
      return trials;
    },
    refetchInterval: live ? 2000 : false,
  });

/** The spec of one trial, to be trained as a run of its own. */
export const trialSpec = (id: string, trial: number): Promise<Record<string, unknown>> =>
  get<Record<string, unknown>>(`${ROOT}/${seg(id)}/trials/${trial}/spec`);
