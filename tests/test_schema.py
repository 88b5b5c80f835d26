"""The migrations and the ORM agree, up and down, with data, on both databases."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, TextClause, bindparam, inspect, text
from sqlalchemy.exc import DBAPIError

import migrations
from fitserve import api_keys, db
from fitserve.tables import Base, Key, UtcTime


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


@pytest.mark.parametrize("terminal", ["succeeded", "failed", "cancelled"])
def test_a_terminal_state_is_immutable_whoever_writes(engine: Engine, terminal: str) -> None:
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
            {"at": at, "state": terminal},
        )
    with pytest.raises(DBAPIError, match="immutable"), db.transaction(engine) as session:
        session.execute(text("UPDATE runs SET state = 'queued' WHERE id = 'r'"))
