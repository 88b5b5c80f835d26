"""Secrets of webhooks, encrypted.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("sealed_secret", "sealed_previous_secret"):
        op.add_column("webhooks", sa.Column(name, sa.String(300), nullable=True))


def downgrade() -> None:
    for name in ("sealed_previous_secret", "sealed_secret"):
        op.drop_column("webhooks", name)
