"""The trials of searches.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import fitserve.tables

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "trials",
        sa.Column("run_id", sa.String(40), nullable=False),
        sa.Column("trial", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("attempt", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("point", _JSON, nullable=False),
        sa.Column("chosen", _JSON, nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("epochs", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("best_epoch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("rungs", _JSON, nullable=True),
        sa.Column("created_at", fitserve.tables.UtcTime(timezone=True), nullable=False),
        sa.Column("finished_at", fitserve.tables.UtcTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'succeeded', 'pruned', 'failed')", name=op.f("ck_trials_trial_state_known")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_trials_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "trial", name=op.f("pk_trials")),
    )


def downgrade() -> None:
    op.drop_table("trials")
