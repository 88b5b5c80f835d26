/** Texts about imports. */

export const sourcesEn = {
  "import.title": "Import from a database, a store or an address",
  "import.kind": "Source",
  "import.kind.sql": "Query",
  "import.kind.files": "Files in a store",
  "import.kind.delta": "Delta table",
  "import.kind.https": "Address",
  "import.connection": "Connection",
  "import.connection.none": "The operator has named no connection for this source.",
  "import.query": "Query",
  "import.query.hint": "One SELECT; add ORDER BY for a fixed order.",
  "import.path": "Path",
  "import.path.hint": "Below the connection's folder; a pattern such as 2026/*.parquet names parts.",
  "import.url": "https address of a file",
  "import.start": "Import",
  "import.busy": "Importing…",
  "import.refresh": "Import again",
  "import.unchanged": "The source has not changed.",
};
