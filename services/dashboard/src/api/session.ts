/** Signing in: the key is sent once and stored as an HttpOnly cookie, which scripts cannot read. */

import { call, get, post } from "./client";

export interface Me {
  key_id: string;
  owner: string;
  scopes: string[];
}

/** Read the key from `#key=...` and remove it from the address and the history. */
export function takeKey(place: Location, past: History): string | null {
  const found = /^#key=(.+)$/.exec(place.hash);
  if (!found?.[1]) return null;
  past.replaceState(null, "", place.pathname + place.search);
  return decodeURIComponent(found[1]);
}

export const signIn = (token: string): Promise<Me> => post<Me>("/api/v1/session", { token });
export const whoAmI = (): Promise<Me> => get<Me>("/api/v1/session");
export const signOut = (): Promise<unknown> => call("DELETE", "/api/v1/session");
