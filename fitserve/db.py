"""The database: engines, transactions, inserts and its clock."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, Row, create_engine, event, func, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from fitserve.crash_points import hooks_allowed
from fitserve.errors import BadInput, Conflict, StorageFull, Unavailable

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

# Notice a peer that vanishes without closing the connection within 15 s, before a lease of 30 s expires.
_TCP = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # ms that sent data may stay unacknowledged
    "connect_timeout": 5,
}

# Resetting the WAL can corrupt a database in SQLite 3.7.0 to 3.51.2; these branches have the fix.
_WAL_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def wal_is_sound(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Return whether the linked SQLite is free of the WAL-reset bug."""
    return version >= (3, 51, 3) or any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_FIXED)


def make_engine(
    url: str, *, pool_size: int = 10, statement_seconds: float | None = 30.0, answer_seconds: float | None = 35.0
) -> Engine:
    """Return an engine. Create it after any fork or spawn. SQLite's writers queue up.

    PostgreSQL ends a statement after `statement_seconds`. A connection whose response takes `answer_seconds` is closed,
    because a middlebox may acknowledge every packet and deliver none, which TCP's own timeouts never notice.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    milliseconds = round(1000 * (statement_seconds or 0))
    options = f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout=60000"
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        connect_args={"options": options, **_TCP},
    )
    if answer_seconds is not None:
        event.listen(engine, "do_connect", partial(_connect_bounded, answer_seconds))
    return engine


def _connect_bounded(
    answer_seconds: float, _dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]
) -> psycopg.Connection[Any]:
    """Open a connection that closes itself, with OperationalError, when a response takes `answer_seconds`."""
    import psycopg  # only where the database is PostgreSQL

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            began_at = time.monotonic()
            try:
                return super().wait(gen, interval, timeout or answer_seconds)
            except psycopg.OperationalError:
                if time.monotonic() - began_at >= answer_seconds:
                    # the response may still arrive, and must not be taken for the next statement's
                    self.pgconn.finish()
                raise

    return Connection.connect(*arguments, **options)


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 5, "check_same_thread": False}, pool_timeout=5)
    journal = "WAL" if wal_is_sound() else "TRUNCATE"
    # Tests kill processes but never cut the power: what a process has written survives it without a sync.
    synchronous = "OFF" if hooks_allowed() else "FULL"

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves
        for pragma in (f"journal_mode={journal}", "foreign_keys=ON", "busy_timeout=5000", f"synchronous={synchronous}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A transaction that reads and then writes must take the write lock first, or it fails as locked.
        writing = connection.get_execution_options().get("writing", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


# Called in every writing transaction of this context before commit, to add rows such as the request's audit entry.
COMMITTED_WITH: ContextVar[Callable[[Session], None] | None] = ContextVar("committed_with", default=None)


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Run a writing transaction: committed when the block ends, rolled back when it raises."""
    with translate_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session
        if (add := COMMITTED_WITH.get()) is not None:
            add(session)


def serialise(session: Session, what: str, whose: str) -> None:
    """Let transactions that name the same `what` and `whose` run one after the other, from here to their ends.

    Code that counts rows before it adds one needs this, or two requests at once exceed the limit. On SQLite a
    transaction holds the only write lock anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        query = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        session.execute(query, {"name": f"{what}:{whose}"})


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Run a reading transaction, which takes no write lock on SQLite."""
    with translate_errors(), Session(engine.execution_options(writing=False), expire_on_commit=False) as session:
        yield session  # closing it rolls back; loaded rows stay readable


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate database errors: Unavailable (503) if it is unreachable or busy, StorageFull (507), Conflict, BadInput.

    Conflict means that a row was deleted between being read and being referenced. BadInput means that the database
    cannot store a value; requests are checked before, so this catches what a check has missed, and logs it.
    """
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("The database has no free connection.", retry_after=1) from error
    except DBAPIError as error:
        message = str(error.orig).lower()
        if "disk is full" in message or "no space left" in message:
            raise StorageFull("The database's disk is full.", retry_after=60) from error
        if isinstance(error, OperationalError) or error.connection_invalidated:
            raise Unavailable("The database is not reachable right now.", retry_after=5) from error
        if isinstance(error, IntegrityError) and "foreign key" in message:
            detail = "What this refers to was deleted at the same moment, or something refers to this by now."
            raise Conflict(detail, fix="Look at it again, then repeat the request.") from error
        if isinstance(error, DataError):
            raise _no_value(error) from error
        raise
    except (OverflowError, UnicodeEncodeError) as error:  # sqlite3 raises these itself, psycopg the second
        if "SQLite INTEGER" in str(error) or "surrogates" in str(error):
            raise _no_value(error) from error
        raise


def _no_value(error: Exception) -> BadInput:
    log.warning("a value that no row can have", exc_info=error)
    return BadInput(
        "It holds a value that the database cannot hold.",
        expected="text without NUL and without half of a surrogate pair, whole numbers of 64 bits",
    )


def now(session: Session) -> datetime:
    """Return the database's time in UTC, which is the only clock used for leases."""
    if session.get_bind().dialect.name == "sqlite":
        stamp = session.scalar(select(func.strftime("%Y-%m-%dT%H:%M:%f", "now")))
        return datetime.fromisoformat(str(stamp)).replace(tzinfo=UTC)
    value = session.scalar(text("SELECT clock_timestamp()"))
    assert isinstance(value, datetime)
    return value.astimezone(UTC)


def insert(session: Session, table: Any) -> sqlite.Insert | postgresql.Insert:
    """Return the dialect's INSERT for a mapped class's table, which supports ON CONFLICT."""
    build = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return build(table.__table__)


def insert_new(
    session: Session, table: Any, rows: Sequence[dict[str, Any]], returning: Sequence[Any] = ()
) -> Sequence[Row[Any]]:
    """Insert rows, skipping those whose key exists, also within `rows`. Return `returning` of the rows inserted."""
    if not rows:
        return []
    statement = insert(session, table).on_conflict_do_nothing()
    if not returning:
        session.execute(statement, rows)
        return []
    return session.execute(statement.returning(*returning), rows).all()
