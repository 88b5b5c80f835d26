"""An index of runs by parent, mainly for trials.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    has_parent = sa.text("parent_id IS NOT NULL")
    op.create_index("ix_runs_parent_id", "runs", ["parent_id"], sqlite_where=has_parent, postgresql_where=has_parent)


def downgrade() -> None:
    op.drop_index("ix_runs_parent_id", "runs")
