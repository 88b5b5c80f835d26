/** A run as it trains: epochs and events, first from the lists, then from the stream. */

import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useReducer, useRef, useState } from "react";
import { EpochTable, type EpochRow } from "../charts/curves";
import { get, seg } from "./client";
import { allEpochs } from "./runs";
import type { EventInfo } from "./types";

export interface Live {
  table: EpochTable;
  events: readonly EventInfo[];
  connected: boolean;
  version: number;
  /** The epochs recorded so far have been loaded. */
  loaded: boolean;
}

const MOST_EVENT_PAGES = 5;

/** Follow a run until it ends (no run while the id is empty), rendering at most once per frame. */
export function useLive(id: string, live: boolean): Live {
  const queries = useQueryClient();
  const [table] = useState(() => new EpochTable());
  const pending = useRef<{ events: EventInfo[]; seen: Set<number> }>({ events: [], seen: new Set() });
  const [connected, setConnected] = useState(false);
  const [loaded, setLoaded] = useState<string | null>(null);
  const [version, redraw] = useReducer((count: number) => count + 1, 0);
  const [events, setEvents] = useState<readonly EventInfo[]>([]);

  useEffect(() => {
    if (id === "") return undefined;
    pending.current = { events: [], seen: new Set() };
    table.clear();
    const stop = new AbortController();
    let frame = 0;
    const soon = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setEvents([...pending.current.events]);
        redraw();
      });
    };
    const takeEvent = (event: EventInfo) => {
      if (pending.current.seen.has(event.id)) return;
      pending.current.seen.add(event.id);
      if (event.type === "metrics") table.add([event.data as unknown as EpochRow]);
      else pending.current.events.push(event);
      soon();
    };
    const loadEpochs = () =>
      allEpochs(id, stop.signal, (rows) => {
        table.add(rows);
        soon();
      })
        .catch(() => undefined)
        .finally(() => setLoaded(id));
    void loadEpochs();

    let source: EventSource | null = null;
    if (live) {
      source = new EventSource(`/api/v1/runs/${seg(id)}/events`);
      source.onopen = () => setConnected(true);
      source.onerror = () => setConnected(false);
      const hear = (message: MessageEvent<string>) => {
        const event = JSON.parse(message.data) as EventInfo;
        takeEvent(event);
        if (event.type === "state") {
          void queries.invalidateQueries({ queryKey: ["run", id] });
          if (["succeeded", "failed", "cancelled"].includes(String(event.data.state))) {
            source?.close();
            void loadEpochs();
            void queries.invalidateQueries({ queryKey: ["insight", id] });
          }
        }
      };
      for (const type of ["metrics", "state", "message"]) source.addEventListener(type, hear as EventListener);
    } else {
      void loadEvents(id, stop.signal, takeEvent);
    }
    return () => {
      stop.abort();
      source?.close();
      cancelAnimationFrame(frame);
      setConnected(false);
    };
  }, [id, live, queries, table]);

  return { table, events, connected, version, loaded: loaded === id };
}

async function loadEvents(id: string, signal: AbortSignal, take: (event: EventInfo) => void): Promise<void> {
  let cursor: string | null = null;
  for (let pages = 0; pages < MOST_EVENT_PAGES; pages += 1) {
    try {
      const page: { items: EventInfo[]; next_cursor: string | null } = await get(`/api/v1/runs/${seg(id)}/events`, { limit: 1000, cursor }, signal);
      page.items.forEach(take);
      cursor = page.next_cursor;
    } catch {
      return;
    }
    if (cursor === null) return;
  }
}
