import { useEffect, useRef, useState, type RefObject } from "react";

/** Whether an element has been in sight, or nearly, so that what only it needs is fetched then. */
export function useSeen<E extends Element>(): { host: RefObject<E | null>; seen: boolean } {
  const host = useRef<E>(null);
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    const element = host.current;
    if (!element || seen) return undefined;
    const watch = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && setSeen(true), { rootMargin: "300px" });
    watch.observe(element);
    return () => watch.disconnect();
  }, [seen]);
  return { host, seen };
}
