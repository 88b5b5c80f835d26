"""Any database with an SQLAlchemy driver: rows are fetched in batches, and typed by their Python values."""

from __future__ import annotations

import datetime
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.ipc
from sqlalchemy import CursorResult, create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.engine import Connection as Opened
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool

from fitserve.blobs import disk_full_is_507
from fitserve.datasets.sources.arrow_file import TableSize
from fitserve.datasets.sources.connections import BadConnections, NamedConnection, SourceRefused, driver_missing
from fitserve.datasets.sources.fetched import SourceAway
from fitserve.datasets.sources.parts import TablePart, joined_rows, read_stream, unify
from fitserve.datasets.sources.query import QueryResult, query_refused
from fitserve.settings import MB, Limits
from fitserve.wire.notices import Notice

BATCH_ROWS, BATCH_BYTES = 10_000, 16 * MB  # limits of one batch of fetched rows
# Before the query, in its transaction or session. {seconds} and {milliseconds} bound the statement.
_READ_ONLY = {
    "mysql": ("SET SESSION TRANSACTION READ ONLY", "SET SESSION MAX_EXECUTION_TIME={milliseconds}"),
    "mariadb": ("SET SESSION TRANSACTION READ ONLY", "SET SESSION max_statement_time={seconds}"),
    "oracle": ("SET TRANSACTION READ ONLY",),
    "redshift": ("SET TRANSACTION READ ONLY", "SET statement_timeout TO {milliseconds}"),
}
_ALLOWED_IN_SQLITE = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


@contextmanager
def open_query(connection: NamedConnection, query: str, folder: Path, limits: Limits) -> Iterator[QueryResult]:
    """Run a query in a transaction that is never committed, and is read-only if the database supports that.

    Raises SourceRefused, SourceAway, TooLarge.
    """
    odd_times = _OddTimes()
    engine = _engine(connection, odd_times)
    deadline = time.monotonic() + connection.statement_seconds

    def raise_if_too_long() -> None:
        if time.monotonic() > deadline:
            raise query_refused(f"The query took longer than {connection.statement_seconds:g} seconds.")

    try:
        with _connect(engine) as opened:
            # MariaDB is reached by MySQL's names as well, but has other variables.
            kind = "mariadb" if getattr(engine.dialect, "is_mariadb", False) else engine.dialect.name
            for statement in _READ_ONLY.get(kind, ()):
                seconds = max(1, int(connection.statement_seconds))
                opened.exec_driver_sql(statement.format(seconds=seconds, milliseconds=seconds * 1000))
            if engine.dialect.name == "sqlite":
                _guard_sqlite(opened, deadline)
            streamed = opened.execution_options(stream_results=True, max_row_buffer=1, no_parameters=True)
            rows = streamed.exec_driver_sql(query)
            if not rows.returns_rows:
                raise query_refused("The query gives no rows.")
            taken_at = datetime.datetime.now(datetime.UTC).isoformat()
            try:
                parts = _segments(rows, raise_if_too_long, folder, TableSize(limits))
            except BaseException:
                opened.invalidate()  # a rollback would wait for all rows that are left
                raise
            opened.rollback()
    except DBAPIError as error:
        _raise(error, connection, late=time.monotonic() > deadline)
    finally:
        engine.dispose()
    schema, _ = unify(parts)
    yield QueryResult(schema, joined_rows(parts, schema), {"taken_at": taken_at}, odd_times.notices())


class _OddTimes:
    """Reads MySQL's dates and times that no calendar has, such as 0000-00-00, as missing, and remembers them."""

    def __init__(self) -> None:
        self.count, self.example = 0, ""

    def arguments(self, url: URL) -> dict[str, Any]:
        """Return what PyMySQL is given at each connection: left to itself, it leaves such a value as a text."""
        if url.get_driver_name() != "pymysql":
            return {}
        from pymysql.constants import FIELD_TYPE  # type: ignore[import-untyped]
        from pymysql.converters import conversions  # type: ignore[import-untyped]

        kinds = (FIELD_TYPE.DATE, FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP)
        return {"conv": {**conversions, **{kind: partial(self._read, conversions[kind]) for kind in kinds}}}

    def _read(self, convert: Callable[[Any], Any], value: Any) -> datetime.date | None:
        read = convert(value)
        if isinstance(read, datetime.date):  # or one with a time, which is one too
            return read
        self.count, self.example = self.count + 1, self.example or str(read)[:40]
        return None

    def notices(self) -> list[Notice]:
        """Return what was read as missing."""
        if not self.count:
            return []
        return [
            Notice(
                code="read_as_missing",
                message=f"{self.count} dates or times that no calendar has are read as missing.",
                evidence=f"such as {self.example}",
                option="CAST(... AS CHAR) in the query keeps their text",
            )
        ]


def _engine(connection: NamedConnection, odd_times: _OddTimes) -> Engine:
    try:
        url = make_url(connection.full_url)
        if url.get_backend_name() == "sqlite" and url.database:
            read_only = {**url.query, "mode": "ro", "uri": "true"}
            url = url.set(database=f"file:{url.database}", query=read_only)
        return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=odd_times.arguments(url))
    except (ArgumentError, NoSuchModuleError):
        raise BadConnections(f"SQLAlchemy has no database {connection.scheme!r}.") from None
    except ImportError as error:
        raise driver_missing(connection, error.name) from None
    except ValueError:  # the message quotes a part of the URL
        raise BadConnections("A connection's url cannot be read.") from None


def _connect(engine: Engine) -> Opened:
    try:
        return engine.connect()
    except TypeError:  # raised by the driver's function, which takes the URL's parameters as arguments
        raise BadConnections("A connection's url has a parameter that its driver does not know.") from None


def _guard_sqlite(opened: Opened, deadline: float) -> None:
    """Allow SQLite only to read, and stop it at the deadline: it has neither roles nor a timeout."""
    raw: Any = opened.connection.driver_connection
    raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BATCH_BYTES)  # bounds a value that an SQL function produces
    raw.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED_IN_SQLITE else sqlite3.SQLITE_DENY)
    raw.set_progress_handler(lambda: int(time.monotonic() > deadline), 100_000)


def _raise(error: DBAPIError, connection: NamedConnection, *, late: bool) -> NoReturn:
    """Translate a driver's error, and raise it."""
    detail = connection.redact(str(error.orig))
    if late or "max_statement_time" in detail or "maximum statement execution time" in detail:
        fix = "Ask for fewer rows, or have the operator raise `statement_seconds`."
        what = f"The query took longer than {connection.statement_seconds:g} seconds."
        raise query_refused(what, fix=fix) from None
    if error.statement is None:  # while connecting
        lowered = detail.lower()
        if any(word in lowered for word in ("denied", "password", "authentication", "unknown database", "login")):
            raise SourceRefused(
                f"The database refuses the connection: {detail}.",
                fix="Ask the operator to correct the connection's user, password or database.",
            ) from None
        raise SourceAway(f"The database does not answer: {detail}") from None
    if error.connection_invalidated or isinstance(error, InterfaceError):
        raise SourceAway(f"The connection broke: {detail}") from None
    if isinstance(error, OperationalError) and "locked" in detail:
        raise SourceAway(f"The database is busy: {detail}") from None
    advice = "Import what a SELECT reads." if "not authorized" in detail or "read only" in detail.lower() else None
    raise query_refused(f"The database refuses the query: {detail}.", fix=advice) from None


# --- values --------------------------------------------------------------------------------------------------------


def _segments(
    result: CursorResult[Any], raise_if_too_long: Callable[[], None], folder: Path, size: TableSize
) -> list[TablePart]:
    """Write the rows to files, a new one whenever the types change: they are known only after the last row."""
    parts: list[TablePart] = []
    writer: pa.ipc.RecordBatchStreamWriter | None = None
    names, count = list(result.keys()), 1
    try:
        while rows := result.fetchmany(count):
            raise_if_too_long()
            columns = [arrow_column(list(column)) for column in zip(*rows, strict=True)]
            batch = pa.RecordBatch.from_arrays(columns, names=names)
            size.add(batch)
            # A batch is in memory whole, and its rows may be large.
            count = max(1, min(BATCH_ROWS, 8 * count, BATCH_BYTES * count // max(1, batch.nbytes)))
            if writer is None or batch.schema != parts[-1].schema:
                if writer is not None:
                    writer.close()
                path = folder / f"segment-{len(parts)}.arrow"
                writer = pa.ipc.new_stream(str(path), batch.schema)
                parts.append(TablePart(f"rows from {len(parts)}", batch.schema, partial(read_stream, path)))
            with disk_full_is_507():
                writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()
    return parts or [TablePart("rows", pa.schema([pa.field(name, pa.null()) for name in names]), lambda: iter(()))]


def arrow_column(values: list[Any]) -> pa.Array:
    """Return Python values as an Arrow column; values of several types become texts."""
    try:
        column = pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([_text(value) for value in values], pa.string())
    if pa.types.is_decimal(column.type) and column.type.precision <= 38:
        return column.cast(pa.decimal128(38, max(0, column.type.scale)))
    if pa.types.is_nested(column.type) or pa.types.is_duration(column.type):  # MySQL's TIME
        return pa.array([_text(value) for value in values], pa.string())
    return column


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
