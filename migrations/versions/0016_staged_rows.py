"""Batches of rows that wait to be appended together, and batches already appended.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "staged_rows",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("batch", sa.String(255), nullable=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("size", _INTEGER, nullable=False),
        sa.Column("parquet", sa.LargeBinary(), nullable=True),
        sa.Column("dataset_id", sa.String(40), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_staged_rows"),
        sa.UniqueConstraint("name", "batch", name="uq_staged_rows_name_batch"),
    )
    waiting = sa.text("dataset_id IS NULL")
    op.create_index(
        "ix_staged_rows_waiting", "staged_rows", ["name", "id"], sqlite_where=waiting, postgresql_where=waiting
    )


def downgrade() -> None:
    op.drop_table("staged_rows")
