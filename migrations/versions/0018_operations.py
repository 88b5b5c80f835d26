"""Samples of processes and of models' traffic, the last fault of a model, alarms; the audit log by whom and when.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "samples",
        sa.Column("step", _INTEGER, nullable=False),
        sa.Column("slot", _INTEGER, nullable=False),
        sa.Column("process", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("host", sa.String(80), nullable=False),
        sa.Column("figures", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("step", "slot", "process", name="pk_samples"),
    )
    op.create_table(
        "traffic_samples",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("step", _INTEGER, nullable=False),
        sa.Column("slot", _INTEGER, nullable=False),
        sa.Column("process", sa.String(128), nullable=False),
        sa.Column("version", _INTEGER, nullable=False),
        sa.Column("figures", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("model", "step", "slot", "process", "version", name="pk_traffic_samples"),
    )
    op.create_index("ix_traffic_samples_step_slot", "traffic_samples", ["step", "slot"])
    op.create_table(
        "model_faults",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", _INTEGER, nullable=True),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("detail", sa.String(300), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_model_faults"),
    )
    op.create_table(
        "alarms",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("figures", _JSON, nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.Column("seen_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        sa.CheckConstraint("severity IN ('warning', 'critical')", name=op.f("ck_alarms_alarm_severity_known")),
        sa.PrimaryKeyConstraint("id", name="pk_alarms"),
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_alarms_open", "alarms", ["name", "subject"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_index("ix_alarms_ended_at", "alarms", ["ended_at"])
    failed = sa.text("state = 'failed'")
    op.create_index("ix_deliveries_failed", "deliveries", ["next_at"], sqlite_where=failed, postgresql_where=failed)
    op.create_index("ix_audit_owner_id", "audit", ["owner", "id"])
    op.create_index("ix_audit_key_id_id", "audit", ["key_id", "id"])
    op.create_index("ix_audit_created_at", "audit", ["created_at"])


def downgrade() -> None:
    for index in ("ix_audit_created_at", "ix_audit_key_id_id", "ix_audit_owner_id"):
        op.drop_index(index, "audit")
    op.drop_index("ix_deliveries_failed", "deliveries")
    for table in ("alarms", "model_faults", "traffic_samples", "samples"):
        op.drop_table(table)
