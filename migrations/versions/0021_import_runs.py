"""Runs that import a table: they have no dataset.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_REQUIRED, _OPTIONAL = "dataset_id VARCHAR(40) NOT NULL", "dataset_id VARCHAR(40)"


def upgrade() -> None:
    _change(_REQUIRED, _OPTIONAL, nullable=True)


def downgrade() -> None:
    runs = sa.table("runs", sa.column("id"), sa.column("dataset_id"), sa.column("parent_id"), sa.column("deleted_at"))
    imports = sa.select(runs.c.id).where(runs.c.dataset_id.is_(None)).scalar_subquery()
    # Events are append-only, but for those of a run that is being deleted.
    op.execute(runs.update().where(runs.c.dataset_id.is_(None)).values(deleted_at=sa.func.current_timestamp()))
    op.execute(runs.update().where(runs.c.parent_id.in_(imports)).values(parent_id=None))
    for name in ("events", "idempotency"):
        table = sa.table(name, sa.column("run_id"))
        op.execute(table.delete().where(table.c.run_id.in_(imports)))
    op.execute(runs.delete().where(runs.c.dataset_id.is_(None)))
    _change(_OPTIONAL, _REQUIRED, nullable=False)


def _change(before: str, after: str, *, nullable: bool) -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.alter_column("runs", "dataset_id", nullable=nullable)
        return
    # SQLite has no such statement. A copy of the table would need its foreign keys off, which a transaction cannot do;
    # this is the way that SQLite's documentation names for constraints that change no stored row.
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = connection.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :before, :after)"
            " WHERE type = 'table' AND name = 'runs' AND instr(sql, :before)"
        ),
        {"before": before, "after": after},
    )
    assert changed.rowcount == 1
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
