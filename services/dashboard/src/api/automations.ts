import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { del, get, patch, post, seg } from "./client";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type AutomationInfo = Schemas["AutomationInfo"];
export type Firing = Schemas["Firing"];
export type Rehearsal = Schemas["Rehearsal"];
export type WebhookInfo = Schemas["WebhookInfo"];
export type NewWebhook = Schemas["NewWebhook"];
export type DeliveryInfo = Schemas["DeliveryInfo"];

const AUTOMATIONS = "/api/v1/automations";
const WEBHOOKS = "/api/v1/webhooks";

export const useAutomations = (): UseQueryResult<AutomationInfo[]> =>
  useQuery({ queryKey: ["automations"], queryFn: ({ signal }) => get<AutomationInfo[]>(AUTOMATIONS, undefined, signal), refetchInterval: 5000 });

export const useFirings = (id: string): UseQueryResult<Firing[]> =>
  useQuery({
    queryKey: ["automations", id, "history"],
    queryFn: async ({ signal }) => (await get<{ items: Firing[] }>(`${AUTOMATIONS}/${seg(id)}/history`, { limit: 50 }, signal)).items,
    refetchInterval: 5000,
  });

export const createAutomation = (name: string, policy: object): Promise<AutomationInfo> => post<AutomationInfo>(AUTOMATIONS, { ...policy, name });
export const switchAutomation = (id: string, enabled: boolean): Promise<AutomationInfo> => patch<AutomationInfo>(`${AUTOMATIONS}/${seg(id)}`, { enabled });
export const deleteAutomation = (id: string): Promise<unknown> => del(`${AUTOMATIONS}/${seg(id)}`);
export const rehearseAutomation = (id: string): Promise<Rehearsal> => get<Rehearsal>(`${AUTOMATIONS}/${seg(id)}/rehearsal`);
export const rehearsePolicy = (policy: object): Promise<Rehearsal> => post<Rehearsal>(`${AUTOMATIONS}/rehearsal`, policy);

export const useWebhooks = (): UseQueryResult<WebhookInfo[]> =>
  useQuery({ queryKey: ["webhooks"], queryFn: ({ signal }) => get<WebhookInfo[]>(WEBHOOKS, undefined, signal), refetchInterval: 10000 });

export const useDeliveries = (id: string): UseQueryResult<DeliveryInfo[]> =>
  useQuery({
    queryKey: ["webhooks", id, "deliveries"],
    queryFn: async ({ signal }) => (await get<{ items: DeliveryInfo[] }>(`${WEBHOOKS}/${seg(id)}/deliveries`, { limit: 50 }, signal)).items,
    refetchInterval: 3000,
  });

export const useEventTypes = (): UseQueryResult<Record<string, string>> =>
  useQuery({ queryKey: ["events", "types"], queryFn: ({ signal }) => get<Record<string, string>>("/api/v1/events/types", undefined, signal), staleTime: Number.POSITIVE_INFINITY });

export const createWebhook = (url: string, events: string[]): Promise<NewWebhook> => post<NewWebhook>(WEBHOOKS, { url, events });
export const changeWebhook = (id: string, change: object): Promise<WebhookInfo> => patch<WebhookInfo>(`${WEBHOOKS}/${seg(id)}`, change);
export const deleteWebhook = (id: string): Promise<unknown> => del(`${WEBHOOKS}/${seg(id)}`);
export const testWebhook = (id: string): Promise<DeliveryInfo> => post<DeliveryInfo>(`${WEBHOOKS}/${seg(id)}/test`);
export const redeliver = (id: string, delivery: string): Promise<DeliveryInfo> =>
  post<DeliveryInfo>(`${WEBHOOKS}/${seg(id)}/deliveries/${seg(delivery)}/redeliver`);
