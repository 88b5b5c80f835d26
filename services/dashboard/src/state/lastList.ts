/** The list of runs as it was last shown, so that the way back from a run leads to its search, filters and order. */

let query = "";

export const rememberList = (search: string): void => {
  query = search;
};

/** The address of the list. */
export const lastList = (): string => `/runs${query}`;
