/** A page's state in its address, so it can be shared and survives a reload. */

import { useCallback } from "react";
import { useLocation, useSearchParams } from "react-router";

/** A value of the query string; the default is omitted from it. */
export function useInAddress(name: string, usual = ""): [string, (value: string) => void] {
  const [query, setQuery] = useSearchParams();
  const { pathname } = useLocation();
  const set = useCallback(
    (value: string) => {
      // Do not navigate back to a page that the visitor is leaving.
      if (window.location.pathname !== pathname) return;
      // Start from the address itself, so two changes in one tick are both kept.
      const next = new URLSearchParams(window.location.search);
      if (value === usual) next.delete(name);
      else next.set(name, value);
      if (next.toString() !== new URLSearchParams(window.location.search).toString()) setQuery(next, { replace: true });
    },
    [name, usual, setQuery, pathname],
  );
  return [query.get(name) ?? usual, set];
}
