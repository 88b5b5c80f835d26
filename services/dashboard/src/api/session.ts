/** Signing in: the key is given once and kept by the browser as an HttpOnly cookie, out of reach of scripts. */

import { call, get, post } from "./client";

export interface Me {
  key_id: string;
  owner: string;
  scopes: string[];
}

/** Takes the key out of `#key=...`, and out of the address and its history. */
export function takeKey(place: Location, past: History): string | null {
  const found = /^#key=(.+)$/.exec(place.hash);
  if (!found?.[1]) return null;
  past.replaceState(null, "", place.pathname + place.search);
  return decodeURIComponent(found[1]);
}

export const signIn = (token: string): Promise<Me> => post<Me>("/api/v1/session", { token });
export const whoAmI = (): Promise<Me> => get<Me>("/api/v1/session");
export const signOut = (): Promise<unknown> => call("DELETE", "/api/v1/session");
