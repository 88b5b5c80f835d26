"""Runs can be shared, and refer to the key that created them; keys have quotas.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("quotas", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("runs", sa.Column("key_id", sa.String(length=40), nullable=True))
    op.add_column("runs", sa.Column("shared", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_runs_key_id_finished_at", "runs", ["key_id", "finished_at"])
    op.create_index(
        "ix_runs_shared", "runs", ["id"], sqlite_where=sa.text("shared"), postgresql_where=sa.text("shared")
    )


def downgrade() -> None:
    op.drop_index("ix_runs_shared", "runs")
    op.drop_index("ix_runs_key_id_finished_at", "runs")
    op.drop_column("runs", "shared")
    op.drop_column("runs", "key_id")
    op.drop_column("keys", "quotas")
