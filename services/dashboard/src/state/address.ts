/** What is chosen on a page, in its address: shared, and there again after a reload. */

import { useCallback } from "react";
import { useLocation, useSearchParams } from "react-router";

/** A value of the query; what is usual is left out of it. */
export function useInAddress(name: string, usual = ""): [string, (value: string) => void] {
  const [query, setQuery] = useSearchParams();
  const { pathname } = useLocation();
  const set = useCallback(
    (value: string) => {
      // A page that is being left must not call the visitor back.
      if (window.location.pathname !== pathname) return;
      // From the address itself: two changes in one moment both stay.
      const next = new URLSearchParams(window.location.search);
      if (value === usual) next.delete(name);
      else next.set(name, value);
      if (next.toString() !== new URLSearchParams(window.location.search).toString()) setQuery(next, { replace: true });
    },
    [name, usual, setQuery, pathname],
  );
  return [query.get(name) ?? usual, set];
}
