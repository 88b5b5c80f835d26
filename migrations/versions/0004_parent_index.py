"""What was made from a run is found by an index: its trials above all.

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
    made = sa.text("parent_id IS NOT NULL")
    op.create_index("ix_runs_parent_id", "runs", ["parent_id"], sqlite_where=made, postgresql_where=made)


def downgrade() -> None:
    op.drop_index("ix_runs_parent_id", "runs")
