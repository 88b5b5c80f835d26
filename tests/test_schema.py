"""The migrations and the ORM agree, up and down, with data, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, TextClause, bindparam, inspect, text
from sqlalchemy.exc import DBAPIError

import migrations
from fitserve import api_keys, db
from fitserve.datasets import store
from fitserve.errors import BadInput, NotFound
from fitserve.runs import create
from fitserve.tables import Base, Key, Upload, UtcTime


def test_migrations_create_the_schema_of_the_orm(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        # An index over an expression cannot be read back, so it is looked for by name below.
        differences = [step for step in compare_metadata(context, Base.metadata) if "ix_runs_queue" not in str(step)]
        indexes = connection.scalar(
            text("SELECT count(*) FROM pg_indexes WHERE indexname = 'ix_runs_queue'")
            if engine.dialect.name == "postgresql"
            else text("SELECT count(*) FROM sqlite_master WHERE name = 'ix_runs_queue'")
        )
    assert differences == []
    assert indexes == 1


def test_up_down_up_with_data(engine: Engine, database_url: str) -> None:
    with db.transaction(engine) as session:
        api_keys.create(session, owner="ada", name="first", scopes=["admin"])
    insert_run(engine, "queued")
    with db.transaction(engine) as session:  # an import, with its events; what has no dataset cannot stay
        new = create.NewRun("ada", None, {}, {}, {}, kind="import")
        create.add_run(session, new, "run_import", db.now(session))
        create.add_run(session, replace(new, kind="part", parent_id="run_import"), "run_part", db.now(session))
    migrations.downgrade(database_url, "0020")
    with db.reading(engine) as session:
        assert list(session.scalars(text("SELECT id FROM runs"))) == ["r"]
        assert session.scalar(text("SELECT count(*) FROM events")) == 0
    assert "NOT NULL" in refused(engine, "UPDATE runs SET dataset_id = NULL").upper().replace("NOT-NULL", "NOT NULL")
    engine.dispose()
    migrations.downgrade(database_url, "base")
    assert "runs" not in inspect(engine).get_table_names()
    engine.dispose()
    migrations.upgrade(database_url)
    assert not migrations.pending(database_url)
    with db.reading(engine) as session:
        assert session.query(Key).count() == 0


def test_every_check_and_key_is_named(engine: Engine) -> None:
    for table in Base.metadata.sorted_tables:
        assert all(constraint.name for constraint in table.constraints), table.name


def timed(statement: str) -> TextClause:
    """Return plain SQL with a UTC time as its parameter `:at`."""
    return text(statement).bindparams(bindparam("at", type_=UtcTime()))


def insert_run(engine: Engine, state: str) -> None:
    """Insert a run `r` in this state, by plain SQL."""
    with db.transaction(engine) as session:
        at = db.now(session)
        session.execute(
            timed("INSERT INTO blobs (sha256, bytes, kind, created_at) VALUES ('b', 1, 'dataset', :at)"), {"at": at}
        )
        session.execute(
            timed(
                "INSERT INTO datasets (id, name, version, owner, sha256, blob, rows, bytes, source, columns, profile,"
                " shared, created_at) VALUES ('d', 'd', 1, 'o', 's', 'b', 1, 1, '{}', '[]', '{}', false, :at)"
            ),
            {"at": at},
        )
        session.execute(
            timed(
                "INSERT INTO runs (id, kind, owner, dataset_id, spec, resolved, estimates, state, priority, attempt,"
                " spent_attempts, created_at)"
                " VALUES ('r', 'training', 'o', 'd', '{}', '{}', '{}', :state, 0, 1, 1, :at)"
            ),
            {"at": at, "state": state},
        )


def refused(engine: Engine, statement: str) -> str:
    """Return why the database itself refuses a statement; fails where it does not."""
    with pytest.raises(DBAPIError) as error, db.transaction(engine) as session:
        session.execute(text(statement))
    return str(error.value.orig)


@pytest.mark.parametrize("terminal", ["succeeded", "failed", "cancelled"])
def test_the_outcome_of_an_ended_run_is_immutable_whoever_writes(engine: Engine, terminal: str) -> None:
    insert_run(engine, terminal)
    with db.transaction(engine) as session:
        session.execute(text("""UPDATE runs SET result = '{"accuracy": 1}' WHERE id = 'r'"""))  # once, at the end
        session.execute(text("UPDATE runs SET shared = true, checkpoint = NULL WHERE id = 'r'"))
    for change in (
        "state = 'queued'",
        "result = NULL",
        """result = '{"accuracy": 2}'""",
        """error = '{"cause": "x"}'""",
        """spec = '{"a": 1}'""",
        """resolved = '{"a": 1}'""",
        "attempt = 2",
        "finished_at = created_at",
    ):
        assert "immutable" in refused(engine, f"UPDATE runs SET {change} WHERE id = 'r'"), change


def test_events_and_the_audit_log_are_only_added_to(engine: Engine) -> None:
    insert_run(engine, "queued")
    with db.transaction(engine) as session:
        at = db.now(session)
        session.execute(
            timed(
                "INSERT INTO events (run_id, attempt, seq, level, type, message, data, created_at)"
                " VALUES ('r', 1, 1, 'info', 'message', 'm', '{}', :at)"
            ),
            {"at": at},
        )
        session.execute(
            timed(
                "INSERT INTO audit (action, target, status, address, request_id, created_at)"
                " VALUES ('a', 't', 200, '::1', 'q', :at)"
            ),
            {"at": at},
        )
    for table, change in (("events", "message = 'n'"), ("audit", "status = 500")):
        assert "append-only" in refused(engine, f"UPDATE {table} SET {change}")
        assert "append-only" in refused(engine, f"DELETE FROM {table}")


@pytest.mark.parametrize(("started_by_a_test", "synchronous"), [(True, 0), (False, 2)])
def test_a_commit_is_on_the_disk_except_in_tests(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, *, started_by_a_test: bool, synchronous: int
) -> None:
    if not started_by_a_test:
        monkeypatch.delenv("FITSERVE_TEST_HOOKS")
    with db.reading(db.make_engine(sqlite_url)) as session:
        assert session.scalar(text("PRAGMA synchronous")) == synchronous


@pytest.mark.parametrize("value", ["\ud800", 2**63, -(2**70)])
def test_a_value_that_no_row_can_have_is_bad_input(engine: Engine, value: Any) -> None:
    with pytest.raises(BadInput, match="cannot hold"), db.transaction(engine) as session:
        row = {"owner": "a", "length": 1, "offset": 0, "metadata_": {}, "created_at": db.now(session)}
        more = {"id": value} if isinstance(value, str) else {"id": "up_x", "offset": value}
        session.add(Upload(**{**row, "expires_at": row["created_at"], **more}))


def test_text_with_nul_is_bad_input_where_no_row_can_have_it(postgres_url: str) -> None:
    engine = db.make_engine(postgres_url)
    with pytest.raises(BadInput, match="cannot hold"), db.reading(engine) as session:
        session.get(Upload, "up_\0")
    with pytest.raises(NotFound), db.reading(engine) as session:
        store.get(session, None, "a\0b")
    engine.dispose()
