/** Saved views of the list of runs: the address's filters and order, and the columns, kept in this browser. */

import { useState } from "react";
import { readPreference, writePreference } from "../../state/preferences";

export interface View {
  name: string;
  /** The address's query. */
  query: string;
}

const NAME = "runs.views";

/** Read the views of this browser; what is not one is left out. */
export function readViews(text: string | null): View[] {
  try {
    const all: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(all) ? all.filter((one): one is View => typeof (one as View | null)?.name === "string" && typeof (one as View).query === "string") : [];
  } catch {
    return [];
  }
}

export function useViews(): { views: readonly View[]; save: (view: View) => void; remove: (name: string) => void } {
  const [views, setViews] = useState(() => readViews(readPreference(NAME)));
  const put = (next: View[]) => {
    setViews(next);
    writePreference(NAME, JSON.stringify(next));
  };
  return {
    views,
    save: (view) => put([...views.filter((one) => one.name !== view.name), view]),
    remove: (name) => put(views.filter((one) => one.name !== name)),
  };
}
