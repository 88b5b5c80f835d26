"""PostgreSQL through ADBC: COPY in binary, decoded to Arrow by the driver."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.sources.connections import BadConnections, NamedConnection, SourceRefused
from fitserve.datasets.sources.fetched import SourceAway
from fitserve.datasets.sources.query import QueryResult, query_refused
from fitserve.errors import Unavailable
from fitserve.wire.notices import Notice

Convert = Callable[[pa.Array], pa.Array]
# Bounds the wait for a server that has vanished: without these, libpq waits as long as the kernel does.
_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "30", "tcp_user_timeout": "60000"}
AWAY = ("08", "57P", "53", "40")  # SQLSTATEs: connection, shutdown, resources, rollback of a snapshot
_STARTING = re.compile(r"starting up|shutting down|recovery mode|too many|connection slots", re.IGNORECASE)
ENDED = re.compile(r"terminating connection|shutting down|crash of another|conflict with recovery|could not serialize")
_MISSPELT = re.compile(r"Failed to connect: (invalid|missing|forbidden|unexpected|unterminated|end of string) ")
_UNREADABLE = re.compile(r"failed at row \d+: Expected ")  # a row that has come, and that the driver cannot decode
# the server's message, without the driver's text around it
SERVER_MESSAGE = re.compile(r"(?:ERROR|FATAL):\s+(.*?)(?:\n|$)")


@contextmanager
def open_query(connection: NamedConnection, query: str) -> Iterator[QueryResult]:
    """Run a query in a read-only transaction. Raises SourceRefused, SourceAway."""
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise Unavailable("PostgreSQL is read by ADBC, which is not installed: pip install fitserve[sql].") from None
    try:
        with dbapi.connect(uri(connection)) as opened, opened.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(f"SET LOCAL statement_timeout = {int(connection.statement_seconds * 1000)}")
            cursor.execute("SELECT txid_current_snapshot()::text, now()::text")
            row = cursor.fetchone()
            snapshot = {"transactions": row[0], "taken_at": row[1]} if row else {}
            cursor.execute(query + "\n")  # ends a trailing comment, which would swallow what the driver adds
            reader = cursor.fetch_record_batch()
            fields, converts, notices = _plain_fields(reader.schema)
            schema = pa.schema(fields)

            def batches() -> Iterator[pa.RecordBatch]:
                while (batch := _next(reader, connection)) is not None:
                    columns = [convert(column) for convert, column in zip(converts, batch.columns, strict=True)]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)

            yield QueryResult(schema, batches(), snapshot, notices)
            with suppress(dbapi.Error):
                opened.rollback()
    except (dbapi.Error, OSError) as error:
        _raise(error, connection)


def _next(reader: pa.RecordBatchReader, connection: NamedConnection) -> pa.RecordBatch | None:
    try:
        return next(reader, None)
    except (pa.ArrowException, OSError) as error:  # the driver's errors, as Arrow passes them on
        _raise(error, connection)


def uri(connection: NamedConnection) -> str:
    """Return the address that libpq takes, with bounds on waiting."""
    scheme, _, rest = connection.full_url.partition("://")
    address, _, query = rest.partition("?")
    stated = {pair.partition("=")[0] for pair in query.split("&")}
    added = [f"{name}={value}" for name, value in _DEFAULTS.items() if name not in stated]
    return f"postgresql://{address}?{'&'.join([*([query] if query else []), *added])}" if scheme else rest


def _raise(error: Exception, connection: NamedConnection) -> NoReturn:
    """Translate the driver's error, and raise it."""
    text, state = str(error), getattr(error, "sqlstate", None) or ""
    match = SERVER_MESSAGE.search(text)
    detail = connection.redact(match[1] if match else text.removeprefix("IO: "))
    if isinstance(error, OSError) and error.errno:  # the disk's
        raise error
    if (state.startswith(AWAY) and state != "57014") or ENDED.search(detail):
        raise SourceAway(f"The connection to the database broke: {detail}") from None
    if not state and _MISSPELT.search(text):
        raise BadConnections(f"The connection's url cannot be read: {detail}.") from None
    if not state and "Failed to connect" in text:
        if match is None and "FATAL" not in text and "password" not in text:
            raise SourceAway(f"The database does not answer: {detail}") from None
        if _STARTING.search(detail):
            raise SourceAway(f"The database takes no connections now: {detail}") from None
        raise SourceRefused(
            f"The database refuses the connection: {detail}.",
            fix="Ask the operator to correct the connection's user, password or database.",
        ) from None
    if not state and _UNREADABLE.search(text):
        what = f"A value cannot be read: {detail}."
        raise query_refused(what, fix='Cast its column in the query: "column"::text.') from None
    if not state and match is None:
        raise SourceAway(f"The connection broke: {detail}") from None
    if state == "57014" or "statement timeout" in detail:
        seconds = f"{connection.statement_seconds:g}"
        fix = "Ask for fewer rows, or have the operator raise `statement_seconds`."
        raise query_refused(f"The query took longer than {seconds} seconds.", fix=fix) from None
    if state == "25006" or "read-only transaction" in detail:
        raise query_refused(f"The query writes: {detail}.", fix="Import what a SELECT reads.") from None
    raise query_refused(f"The database refuses the query: {detail}.") from None


# --- types ---------------------------------------------------------------------------------------------------------


def _plain_fields(schema: pa.Schema) -> tuple[list[pa.Field], list[Convert], list[Notice]]:
    """Return the fields with Arrow's own types, a conversion for each column, and notices of what that changes."""
    fields, converts, notices = [], [], []
    for field in schema:
        metadata = field.metadata or {}
        name, own = metadata.get(b"POSTGRESQL:type", b"").decode(), metadata.get(b"ADBC:postgresql:typname")
        kind: pa.DataType = field.type
        convert: Convert = _as_it_is
        if name == "numeric":
            kind, notice = _numeric_type(field.name, int(metadata.get(b"POSTGRESQL:typmod", b"-1")))
            convert = _numbers(kind)
            notices += notice
        elif name == "money" or (own is not None and pa.types.is_binary(getattr(field.type, "storage_type", kind))):
            as_type = "numeric" if name == "money" else "text"
            fix = f'Cast it in the query: "{field.name}"::{as_type}.'
            raise query_refused(f"The column {field.name!r} is PostgreSQL's {name}, which cannot be read.", fix=fix)
        elif own is not None:
            kind, convert = pa.string(), _storage
        elif pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
            convert = _finite(field.name)
        fields.append(pa.field(field.name, kind))
        converts.append(convert)
    return fields, converts, notices


def _numeric_type(column: str, modifier: int) -> tuple[pa.DataType, list[Notice]]:
    """Return a decimal for a numeric with a declared scale, else floating-point numbers."""
    if modifier >= 4:
        precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
        if 0 <= scale <= precision <= 38:
            return pa.decimal128(precision, scale), []
    notice = Notice(
        code="digits_rounded",
        message=f"The numbers of {column!r} are read as floating-point numbers.",
        column=column,
        evidence="PostgreSQL's numeric without a scale",
        option=f'"{column}"::numeric(18, 4) in the query',
    )
    return pa.float64(), [notice]


def _numbers(kind: pa.DataType) -> Convert:
    def convert(column: pa.Array) -> pa.Array:
        texts: Any = column.storage
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:  # a decimal has no NaN
            is_missing = pc.is_in(texts, value_set=pa.array(["nan", "NaN"], texts.type))
            return pc.if_else(is_missing, pa.scalar(None, texts.type), texts).cast(kind)

    return convert


def _finite(name: str) -> Convert:
    """Return a check that a column of times is without infinity, which the driver turns into a time long ago."""

    def convert(column: pa.Array) -> pa.Array:
        number = pa.int64() if column.type.bit_width == 64 else pa.int32()
        least = pc.min(column.view(number)).as_py()
        if least is not None and least <= _WRAPPED[column.type.bit_width]:
            fix = f"""Leave it out in the query: NULLIF("{name}", 'infinity')."""
            raise query_refused(f"The column {name!r} holds infinity, or a time that is out of range.", fix=fix)
        return column

    return convert


# PostgreSQL counts from 2000; its infinities are the largest and the least number, and the former wraps around.
_WRAPPED = {32: -(2**31) + 10_957, 64: -(2**63) + 946_684_800_000_000}


def _as_it_is(column: pa.Array) -> pa.Array:
    return column


def _storage(column: pa.Array) -> pa.Array:
    return column.storage
