"""Windows of requests, kept predictions and feedback of served models; the origin of runs.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import fitserve.tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "windows",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("artifact", sa.String(length=64), nullable=False),
        sa.Column("process", sa.String(length=128), nullable=False),
        sa.Column("slice", WHOLE, autoincrement=False, nullable=False),
        sa.Column("version", WHOLE, nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "artifact", "process", "slice", name=op.f("pk_windows")),
    )
    op.create_index("ix_windows_slice", "windows", ["slice"])
    op.create_table(
        "kept_predictions",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("version", WHOLE, nullable=False),
        sa.Column("outputs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", fitserve.tables.UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "owner", "id", name=op.f("pk_kept_predictions")),
    )
    op.create_index("ix_kept_predictions_created_at", "kept_predictions", ["created_at"])
    op.create_table(
        "feedback",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.String(length=63), nullable=False),
        sa.Column("prediction_id", sa.String(length=64), nullable=False),
        sa.Column("row", WHOLE, autoincrement=False, nullable=False),
        sa.Column("output", sa.String(length=255), nullable=False),
        sa.Column("version", WHOLE, nullable=False),
        sa.Column("task", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Double(), nullable=False),
        sa.Column("created_at", fitserve.tables.UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "owner", "prediction_id", "row", "output", name=op.f("pk_feedback")),
    )
    op.create_index("ix_feedback_created_at", "feedback", ["created_at"])
    op.add_column("runs", sa.Column("origin", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "origin")
    for table in ("feedback", "kept_predictions", "windows"):
        op.drop_table(table)
