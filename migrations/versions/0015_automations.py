"""Automations, their firings, and leaders by lease.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "automations",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=True),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=True),
        sa.Column("policy", _JSON, nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("paused_reason", sa.String(500), nullable=True),
        sa.Column("failures", _INTEGER, nullable=False),
        sa.Column("baseline_id", sa.String(40), nullable=True),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_automations"),
        sa.UniqueConstraint("owner", "name", name="uq_automations_owner_name"),
    )
    op.create_table(
        "firings",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("automation_id", sa.String(40), nullable=False),
        sa.Column("tick", sa.String(120), nullable=False),
        sa.Column("reason", sa.String(300), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("decision", sa.String(16), nullable=True),
        sa.Column("why", sa.String(1000), nullable=True),
        sa.Column("dataset", sa.String(80), nullable=True),
        sa.Column("run_id", sa.String(40), nullable=True),
        sa.Column("model", sa.String(63), nullable=True),
        sa.Column("version", _INTEGER, nullable=True),
        sa.Column("report", _JSON, nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_firings"),
        sa.UniqueConstraint("automation_id", "tick", name="uq_firings_automation_id_tick"),
        sa.ForeignKeyConstraint(["automation_id"], ["automations.id"], name="fk_firings_automation_id_automations"),
        sa.CheckConstraint(
            "state IN ('queued', 'open', 'training', 'done', 'failed', 'refused', 'skipped')",
            name="ck_firings_firing_state_known",
        ),
    )
    op.create_index("ix_firings_automation_id_id", "firings", ["automation_id", "id"])
    live = sa.text("state IN ('queued', 'open', 'training')")
    op.create_index("ix_firings_live", "firings", ["id"], sqlite_where=live, postgresql_where=live)
    op.create_table(
        "leaders",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leaders"),
    )


def downgrade() -> None:
    for table in ("leaders", "firings", "automations"):
        op.drop_table(table)
