"""Levels of sharing a model, the sender of its ground truth, and sessions of signed-in browsers.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("sharing", sa.String(length=16), nullable=True))
    op.add_column("models", sa.Column("open_feedback", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("kept_predictions", sa.Column("key_id", sa.String(length=40), nullable=True))
    op.create_index("ix_kept_predictions_owner", "kept_predictions", ["owner"])
    op.add_column("feedback", sa.Column("key_id", sa.String(length=40), nullable=True))
    op.add_column("feedback", sa.Column("counted", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_sessions_key_id_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_index("ix_sessions_key_id", "sessions", ["key_id"])


def downgrade() -> None:
    op.drop_table("sessions")
    op.drop_column("feedback", "counted")
    op.drop_column("feedback", "key_id")
    op.drop_index("ix_kept_predictions_owner", "kept_predictions")
    op.drop_column("kept_predictions", "key_id")
    op.drop_column("models", "open_feedback")
    op.drop_column("models", "sharing")
