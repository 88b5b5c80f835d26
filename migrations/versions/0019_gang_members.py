"""Workers that train one network together.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gang_members",
        sa.Column("run_id", sa.String(40), nullable=False),
        sa.Column("gang_id", sa.String(40), nullable=False),
        sa.Column("attempt", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("hostname", sa.String(255), nullable=False),
        sa.Column("address", sa.String(300), nullable=True),
        sa.Column("rank", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=True),
        sa.Column("addresses", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name="pk_gang_members"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_gang_members_run_id_runs"),
        sa.ForeignKeyConstraint(["gang_id"], ["runs.id"], name="fk_gang_members_gang_id_runs"),
    )
    op.create_index("ix_gang_members_gang_id", "gang_members", ["gang_id"])


def downgrade() -> None:
    op.drop_table("gang_members")
