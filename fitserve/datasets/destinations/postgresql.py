"""Write parts to PostgreSQL through ADBC: binary COPY, straight from Arrow's buffers."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from adbc_driver_postgresql import dbapi

from fitserve.datasets.destinations.target import refused
from fitserve.datasets.parquet_batches import batches_of
from fitserve.datasets.sources.connections import NamedConnection
from fitserve.datasets.sources.fetched import SourceAway
from fitserve.datasets.sources.postgresql import AWAY, ENDED, SERVER_MESSAGE, uri

BATCH_ROWS = 65_536


def copy_part(
    connection: NamedConnection, schema: str | None, staging: str, line: tuple[str, str, int, int, str], path: Path
) -> None:
    """Write a part's rows and its ledger row (table, run, part, rows, sha256) in one transaction, at most once.

    Raises SourceAway, DestinationRefused.
    """
    ledger, run, part, rows, sha256 = line
    place = f'"{schema}".' if schema else ""
    try:
        with dbapi.connect(uri(connection)) as opened, opened.cursor() as cursor, pq.ParquetFile(path) as file:
            cursor.execute(f"SET LOCAL statement_timeout = {int(connection.statement_seconds * 1000)}")
            cursor.execute(  # the statement contains only our own values
                f"INSERT INTO {place}{ledger} (run, part, rows, sha256) VALUES ('{run}', {part}, {rows}, '{sha256}') "  # noqa: S608
                "ON CONFLICT DO NOTHING RETURNING part"
            )
            if cursor.fetchone() is None:
                opened.rollback()
                return
            reader = pa.RecordBatchReader.from_batches(file.schema_arrow, batches_of(file, BATCH_ROWS))
            cursor.adbc_ingest(staging, reader, mode="append", db_schema_name=schema)
            opened.commit()
    except (dbapi.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's
            raise
        text, state = str(error), getattr(error, "sqlstate", None) or ""
        match = SERVER_MESSAGE.search(text)
        detail = connection.redact(match[1] if match else re.sub(r"^\w+: ", "", text))
        if state.startswith(AWAY) or ENDED.search(detail) or (not state and match is None):
            raise SourceAway(f"The connection to the database broke: {detail}") from None
        raise refused("sql", f"The database refuses: {detail}.") from None
