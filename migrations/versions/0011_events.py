"""The outbox of events, webhooks and their deliveries, and which served versions drift.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("dispatched_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_owner_id", "outbox", ["owner", "id"])
    _partial_index("ix_outbox_waiting", "outbox", "id", "dispatched_at IS NULL")
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=True),
        sa.Column("url", sa.String(2048), nullable=True),
        sa.Column("channel", sa.String(63), nullable=True),
        sa.Column("events", _JSON, nullable=False),
        sa.Column("description", sa.String(200), nullable=True),
        sa.Column("secret", sa.String(128), nullable=True),
        sa.Column("previous_secret", sa.String(128), nullable=True),
        sa.Column("previous_until", UtcTime(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("disabled_reason", sa.String(200), nullable=True),
        sa.Column("failing_since", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        sa.CheckConstraint("(url IS NULL) <> (channel IS NULL)", name="ck_webhooks_url_or_channel"),
    )
    op.create_index("ix_webhooks_owner", "webhooks", ["owner"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("webhook_id", sa.String(40), nullable=False),
        sa.Column("event_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", _INTEGER, nullable=False),
        sa.Column("log", _JSON, nullable=False),
        sa.Column("next_at", UtcTime(), nullable=False),
        sa.Column("lease_token", sa.String(64), nullable=True),
        sa.Column("lease_expires_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("delivered_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("webhook_id", "event_id", name="uq_deliveries_webhook_id_event_id"),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id_webhooks"),
        sa.ForeignKeyConstraint(["event_id"], ["outbox.id"], name="fk_deliveries_event_id_outbox"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="ck_deliveries_delivery_state_known"),
    )
    _partial_index("ix_deliveries_due", "deliveries", "next_at", "state = 'pending'")
    op.create_index("ix_deliveries_event_id", "deliveries", ["event_id"])
    op.create_index("ix_deliveries_webhook_id_id", "deliveries", ["webhook_id", "id"])
    op.create_table(
        "drifting",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", _INTEGER, nullable=False),
        sa.Column("psi", sa.Double(), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_drifting"),
    )


def _partial_index(name: str, table: str, column: str, where: str) -> None:
    op.create_index(name, table, [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    for table in ("drifting", "deliveries", "webhooks", "outbox"):
        op.drop_table(table)
