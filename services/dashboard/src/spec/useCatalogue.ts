import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { get } from "../api/client";
import { Catalogue } from "./catalogue";

/** The spec's schema as a catalogue; null until it is there. */
export const useCatalogue = (): Catalogue | null => {
  const schema = useQuery({
    queryKey: ["schema"],
    queryFn: ({ signal }) => get<ConstructorParameters<typeof Catalogue>[0]>("/api/v1/schemas/spec", undefined, signal),
    staleTime: Number.POSITIVE_INFINITY,
  });
  return useMemo(() => (schema.data ? new Catalogue(schema.data) : null), [schema.data]);
};
