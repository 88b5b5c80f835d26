"""A table of a database: parts go to a staging table, each in one transaction with its row in a ledger.

The ledger's key admits each part once, however many workers write it and however often. One statement then moves all
rows to the requested table, so readers never see half of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection as Opened
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from fitserve.datasets.destinations.target import ATTEMPTS, DestinationAway, DestinationRefused, StoredPart, refused
from fitserve.datasets.parquet_batches import batches_of
from fitserve.datasets.sources.connections import BadConnections, NamedConnection, driver_missing
from fitserve.datasets.sources.fetched import SourceAway, look_up, try_again
from fitserve.errors import Problem
from fitserve.wire.destinations import SqlDestination

LEDGER = "fitserve_parts"
PUBLISHED = -1  # the ledger's part number which records that all parts have been moved
BATCH_ROWS = 10_000
# bytes; PostgreSQL would truncate a longer name silently
_LONGEST_NAME = {"postgresql": 63, "mysql": 64, "mariadb": 64}
_AWAY = ("08", "57P", "53", "40")  # SQLSTATEs: connection, shutdown, resources, rolled back
_REFUSALS = re.compile(
    r"denied|password|authentication|does not exist|unknown database|login|no pg_hba|role", re.IGNORECASE
)
_BUSY = re.compile(
    r"locked|deadlock|lock wait timeout|starting up|shutting down|too many|gone away|lost connection",
    re.IGNORECASE,
)


class SqlTarget:
    """A run's rows in one table."""

    def __init__(self, stated: SqlDestination, connection: NamedConnection, run_id: str) -> None:
        schema, _, self._name = stated.table.rpartition(".")
        self._schema, self._stated, self._connection, self._run = schema or None, stated, connection, run_id
        self._staging = f"fitserve_{run_id}"
        self._ledger = sa.Table(
            LEDGER,
            sa.MetaData(schema=self._schema),
            sa.Column("run", sa.String(40), primary_key=True),
            sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("sha256", sa.String(64), nullable=False),
            sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        )

    def prepare(self, schema: pa.Schema) -> None:
        """Create the ledger and the staging table; check that the target table, if it exists, accepts these columns."""
        with self._database() as engine:
            self._retry(lambda: self._make_ledger(engine))
            self._retry(lambda: self._make_room(engine, schema))

    def write(self, part: StoredPart, path: Path) -> None:
        """Write the part's rows and its ledger row in one transaction, unless that ledger row exists."""
        if self._connection.scheme == "postgresql":
            try:
                from fitserve.datasets.destinations.postgresql import copy_part
            except ImportError:
                pass
            else:
                line = (LEDGER, self._run, part.number, part.rows, part.blob)
                self._retry(lambda: copy_part(self._connection, self._schema, self._staging, line, path))
                return
        with self._database() as engine:
            self._retry(lambda: self._insert_part(engine, part, path))

    def finish(self, parts: Sequence[StoredPart], about: Mapping[str, Any]) -> dict[str, Any]:
        """Move all rows to the table and record that in the ledger, in one transaction."""
        with self._database() as engine:
            self._retry(lambda: self._publish(engine, parts))
        entries = [part.as_entry(f"part {part.number} of {self._run} in {LEDGER}") for part in parts]
        where = {"connection": self._stated.connection, "table": self._stated.table}
        return {"destination": {"sql": where}, "parts": entries}

    def discard(self) -> list[str]:
        """Drop the staging table and forget the parts, unless the rows were published."""
        with self._database() as engine:
            remains: list[str] = self._retry(lambda: self._drop(engine))
            return remains

    @property
    def leftovers(self) -> str:
        """The staging table."""
        return f"the table {self._staging} on {self._stated.connection}"

    # --- steps; each may be repeated -------------------------------------------------------------------------------

    def _make_ledger(self, engine: sa.Engine) -> None:
        for last in (False, True):
            try:
                self._ledger.create(engine, checkfirst=True)
                return
            except DBAPIError:  # another run has just created it
                if last or not sa.inspect(engine).has_table(LEDGER, self._schema):
                    raise

    def _make_room(self, engine: sa.Engine, schema: pa.Schema) -> None:
        with engine.begin() as opened:
            if self._is_published(opened):
                return
            self._check_names(engine.dialect.name, schema)
            exists = sa.inspect(opened).has_table(self._name, self._schema)
            if exists and self._stated.if_exists == "fail":
                what = f"The table {self._stated.table} exists already."
                fix = "Choose if_exists: append or replace, or another table."
                raise refused("sql", what, key="table", received=self._stated.table, fix=fix)
            staging = self._table(self._staging, schema)
            if exists:
                self._check_columns(opened, schema)
            staging.create(opened, checkfirst=True)
        if exists:
            with engine.connect() as opened:  # tests permissions and types with no rows; never committed
                target = self._table(self._name, schema)
                opened.execute(_nothing(staging, target))
                if self._stated.if_exists == "replace":
                    opened.execute(target.delete().where(sa.false()))
                opened.rollback()

    def _insert_part(self, engine: sa.Engine, part: StoredPart, path: Path) -> None:
        line = {"run": self._run, "part": part.number, "rows": part.rows, "sha256": part.blob}
        with engine.begin() as opened:
            try:
                opened.execute(self._ledger.insert(), line)
            except IntegrityError:
                return  # already written
            with pq.ParquetFile(path) as file:
                staging = self._table(self._staging, file.schema_arrow)
                for batch in batches_of(file, BATCH_ROWS):
                    opened.execute(staging.insert(), batch.to_pylist())

    def _publish(self, engine: sa.Engine, parts: Sequence[StoredPart]) -> None:
        rows = sum(part.rows for part in parts)
        with engine.begin() as opened:
            if engine.dialect.name == "postgresql":
                milliseconds = int(self._connection.statement_seconds * 1000)
                opened.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
            known = self._is_published(opened)
            staged = sa.inspect(opened).has_table(self._staging, self._schema)
            exists = sa.inspect(opened).has_table(self._name, self._schema)
            if known and not staged:
                return
            if not known:
                self._check_parts(opened, len(parts), rows, staged=staged)
                if staged and not exists:
                    opened.exec_driver_sql(
                        f"ALTER TABLE {self._quoted(engine, self._staging)} RENAME TO {self._renamed(engine)}"
                    )
                    staged = False
                elif staged:
                    self._move(engine, opened)
                # Recorded after the rename, which commits by itself in some databases: without a rename nothing is
                # published.
                opened.execute(self._ledger.insert(), {"run": self._run, "part": PUBLISHED, "rows": rows, "sha256": ""})
        if staged:
            with engine.begin() as opened:
                opened.exec_driver_sql(f"DROP TABLE {self._quoted(engine, self._staging)}")

    def _move(self, engine: sa.Engine, opened: Opened) -> None:
        if self._stated.if_exists == "fail":  # the table did not exist when the run began
            what = f"The table {self._stated.table} was created by somebody else meanwhile."
            raise refused("sql", what, key="table", received=self._stated.table)
        names = [column["name"] for column in sa.inspect(opened).get_columns(self._staging, self._schema)]
        staging, target = (
            sa.table(name, *(sa.column(one) for one in names), schema=self._schema)
            for name in (self._staging, self._name)
        )
        if self._stated.if_exists == "replace":
            opened.execute(target.delete())
        opened.execute(target.insert().from_select(names, sa.select(*staging.c)))

    def _check_parts(self, opened: Opened, parts: int, rows: int, *, staged: bool) -> None:
        """Raise DestinationRefused unless the ledger and its staging table contain every row exactly once."""
        mine = self._ledger.c.run == self._run
        counted = sa.select(sa.func.count(), sa.func.sum(self._ledger.c.rows)).where(mine, self._ledger.c.part >= 0)
        stored_parts, known_rows = opened.execute(counted).one()
        staging = sa.table(self._staging, schema=self._schema)
        there = opened.scalar(sa.select(sa.func.count()).select_from(staging)) if staged else known_rows
        if (stored_parts, int(known_rows or 0), there) != (parts, rows, rows):
            what = f"{there} rows in {stored_parts} parts instead of {rows} in {parts}: somebody else changed them."
            raise refused("sql", what, key="table")

    def _drop(self, engine: sa.Engine) -> list[str]:
        with engine.begin() as opened:
            if not sa.inspect(opened).has_table(LEDGER, self._schema):
                return []
            if self._is_published(opened):
                return [f"all rows in {self._stated.table}, written before the run was ended"]
            if sa.inspect(opened).has_table(self._staging, self._schema):
                opened.exec_driver_sql(f"DROP TABLE {self._quoted(engine, self._staging)}")
            opened.execute(self._ledger.delete().where(self._ledger.c.run == self._run))
        return []

    # --- parts of the steps ----------------------------------------------------------------------------------

    def _is_published(self, opened: Opened) -> bool:
        where = (self._ledger.c.run == self._run, self._ledger.c.part == PUBLISHED)
        return opened.scalar(sa.select(self._ledger.c.rows).where(*where)) is not None

    def _check_names(self, dialect: str, schema: pa.Schema) -> None:
        longest = _LONGEST_NAME.get(dialect)
        for name in schema.names:
            if not name or "\0" in name or (longest is not None and len(name.encode()) > longest):
                what = f"{dialect} has no column name such as {name[:80]!r}."
                fix = "Leave the column out (`columns`), or rename it."
                raise refused("sql", what, received=name[:120], expected=f"1 to {longest or 128} bytes", fix=fix)
        folded = [name.lower() for name in schema.names]
        twice = next((name for name in schema.names if folded.count(name.lower()) > 1), None)
        if twice is not None and dialect not in ("postgresql", "oracle"):
            raise refused("sql", f"{dialect} tells no two columns {twice!r} apart by upper and lower case.")

    def _check_columns(self, opened: Opened, schema: pa.Schema) -> None:
        columns = {one["name"]: one for one in sa.inspect(opened).get_columns(self._name, self._schema)}
        missing = [name for name in schema.names if name not in columns]
        needed = [
            name
            for name, one in columns.items()
            if name not in schema.names and not one["nullable"] and not _fills_itself(one)
        ]
        differences = [f"{self._stated.table} has no column {name!r}." for name in missing]
        differences += [
            f"{self._stated.table} needs a value for {name!r}, which the predictions do not have." for name in needed
        ]
        if differences:
            pointer, fix = "/destination/sql/table", "Change the table, or choose what is written with `columns`."
            expected = ", ".join(columns)[:400]
            problems = [Problem(one, pointer, expected=f"columns: {expected}", fix=fix) for one in differences[:20]]
            raise DestinationRefused(differences[0], problems=problems, fix=fix)

    def _table(self, name: str, schema: pa.Schema) -> sa.Table:
        columns = [sa.Column(field.name, _sql_type(field)) for field in schema]
        return sa.Table(name, sa.MetaData(schema=self._schema), *columns)

    def _quoted(self, engine: sa.Engine, name: str) -> str:
        quote = engine.dialect.identifier_preparer.quote
        return f"{quote(self._schema)}.{quote(name)}" if self._schema else quote(name)

    def _renamed(self, engine: sa.Engine) -> str:
        """Return the table's name for a rename statement: MySQL needs the schema in it, others do not."""
        own_schema = engine.dialect.name in ("mysql", "mariadb")
        return self._quoted(engine, self._name) if own_schema else engine.dialect.identifier_preparer.quote(self._name)

    @contextmanager
    def _database(self) -> Iterator[sa.Engine]:
        engine = self._engine()
        try:
            yield engine
        finally:
            engine.dispose()

    def _engine(self) -> sa.Engine:
        options: dict[str, Any] = {"poolclass": sa.NullPool, "hide_parameters": True}
        try:
            url = sa.make_url(self._connection.full_url)
            backend = url.get_backend_name()
            if backend == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            if backend in ("postgresql", "mysql", "mariadb"):
                options["connect_args"] = {"connect_timeout": 10}
            if backend == "sqlite" and url.database:  # SQLite would create a missing file
                url = url.set(database=f"file:{url.database}", query={**url.query, "mode": "rw", "uri": "true"})
                options["connect_args"] = {"timeout": 30}
            return sa.create_engine(url, **options)
        except (ArgumentError, NoSuchModuleError):
            raise BadConnections(f"SQLAlchemy has no database {self._connection.scheme!r}.") from None
        except ImportError as error:
            raise driver_missing(self._connection, error.name) from None

    def _retry(self, work: Any) -> Any:
        """Call `work`; retry while the database is unavailable."""

        def once() -> Any:
            look_up(self._connection)
            try:
                return work()
            except DBAPIError as error:
                self._raise(error)
            except SQLAlchemyError as error:
                detail = self._connection.redact(str(error))
                raise refused("sql", f"The database cannot take the predictions: {detail}.") from None

        try:
            return try_again(once, ATTEMPTS)
        except SourceAway as error:
            raise DestinationAway(error.detail, retry_after=error.retry_after) from None

    def _raise(self, error: DBAPIError) -> None:
        """Translate a driver's error and raise it."""
        detail = self._connection.redact(str(error.orig).splitlines()[0] if str(error.orig) else type(error).__name__)
        state = getattr(error.orig, "sqlstate", None) or ""
        connecting = error.statement is None
        away = state.startswith(_AWAY) or error.connection_invalidated or _BUSY.search(detail)
        if away or (connecting and not state and not _REFUSALS.search(detail)):
            raise SourceAway(f"The database does not answer: {detail}.") from None
        lacks_rights = connecting or state == "42501"
        fix = "Ask the operator to correct the connection, or the rights of its user." if lacks_rights else None
        raise refused("sql", f"The database refuses: {detail}.", fix=fix) from None


def _nothing(staging: sa.Table, target: sa.Table) -> Any:
    """Return the statement that moves the staged rows, restricted to zero rows."""
    names = [column.name for column in staging.c]
    return target.insert().from_select(names, sa.select(*staging.c).where(sa.false()))


def _fills_itself(column: Mapping[str, Any]) -> bool:
    own = (column.get("default"), column.get("identity"), column.get("computed"))
    return any(one is not None for one in own) or column.get("autoincrement") is True or bool(column.get("primary_key"))


def _sql_type(field: pa.Field) -> Any:
    """Return the SQL type for a new column with a field's values."""
    from sqlalchemy.dialects import mysql  # imported here to save memory, as the API and workers rarely need it

    kind = field.type
    if pa.types.is_decimal(kind):
        return sa.Numeric(kind.precision, kind.scale)
    if pa.types.is_timestamp(kind):
        zoned = sa.DateTime(timezone=kind.tz is not None)
        return zoned.with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    if pa.types.is_string(kind):
        return sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
    for is_kind, made in _TYPES:
        if is_kind(kind):
            return made
    what = f"The column {field.name!r} holds {kind}, which a database has no type for."
    raise refused("sql", what, fix="Leave it out with `columns`.")


_TYPES: Sequence[tuple[Any, Any]] = (
    (pa.types.is_boolean, sa.Boolean()),
    (pa.types.is_int16, sa.SmallInteger()),
    (pa.types.is_int32, sa.Integer()),
    (pa.types.is_int64, sa.BigInteger()),
    (pa.types.is_float32, sa.REAL()),
    (pa.types.is_float64, sa.Double()),
    (pa.types.is_date, sa.Date()),
    (pa.types.is_time, sa.Time()),
    (pa.types.is_binary, sa.LargeBinary()),
)
