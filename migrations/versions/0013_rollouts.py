"""Rollouts: versions that become the champion step by step, their guards and what is counted for them.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ACTIVE = sa.text("state IN ('running', 'paused')")


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("base", _INTEGER, nullable=False),
        sa.Column("to", _INTEGER, nullable=False),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("step", _INTEGER, nullable=False),
        sa.Column("step_at", UtcTime(), nullable=False),
        sa.Column("paused_at", UtcTime(), nullable=True),
        sa.Column("reason", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("owner", sa.String(63), nullable=True),
        sa.Column("key_id", sa.String(40), nullable=True),
        sa.Column("lease_holder", sa.String(128), nullable=True),
        sa.Column("lease_expires_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_rollouts_model_models"),
        sa.CheckConstraint("kind IN ('rollout', 'ab')", name=op.f("ck_rollouts_rollout_kind_known")),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'succeeded', 'rolled_back', 'aborted')",
            name=op.f("ck_rollouts_rollout_state_known"),
        ),
    )
    op.create_index("ix_rollouts_model_id", "rollouts", ["model", "id"])
    op.create_index(
        "uq_rollouts_active", "rollouts", ["model"], unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE
    )
    op.create_table(
        "rollout_steps",
        sa.Column("rollout_id", sa.String(40), nullable=False),
        sa.Column("step", _INTEGER, nullable=False),
        sa.Column("started_at", UtcTime(), nullable=False),
        sa.Column("figures", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("curves", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "step", name="pk_rollout_steps"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name="fk_rollout_steps_rollout_id_rollouts"),
    )
    op.create_table(
        "rollout_counts",
        sa.Column("rollout_id", sa.String(40), nullable=False),
        sa.Column("step", _INTEGER, nullable=False),
        sa.Column("process", sa.String(128), nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "step", "process", name="pk_rollout_counts"),
    )
    op.add_column("kept_predictions", sa.Column("rollout", sa.String(40), nullable=True))
    op.add_column("kept_predictions", sa.Column("rollout_step", _INTEGER, nullable=True))


def downgrade() -> None:
    op.drop_column("kept_predictions", "rollout_step")
    op.drop_column("kept_predictions", "rollout")
    for table in ("rollout_counts", "rollout_steps", "rollouts"):
        op.drop_table(table)
