"""The artifact that a run's network begins with, which is kept as long as the run.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("initial_weights", sa.String(64), nullable=True))
    held = sa.text("initial_weights IS NOT NULL")
    op.create_index("ix_runs_initial_weights", "runs", ["initial_weights"], sqlite_where=held, postgresql_where=held)


def downgrade() -> None:
    op.drop_index("ix_runs_initial_weights", "runs")
    op.drop_column("runs", "initial_weights")
