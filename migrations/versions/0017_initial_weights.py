"""The artifact that a run's network starts from, kept as long as the run; uploaded weights.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("runs", sa.Column("initial_weights", sa.String(64), nullable=True))
    held = sa.text("initial_weights IS NOT NULL")
    op.create_index("ix_runs_initial_weights", "runs", ["initial_weights"], sqlite_where=held, postgresql_where=held)

    op.create_table(
        "uploaded_weights",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("artifact", sa.String(64), nullable=False),
        sa.Column("bytes", _INTEGER, nullable=False),
        sa.Column("parameters", _INTEGER, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["blobs.sha256"], name="fk_uploaded_weights_artifact_blobs"),
        sa.PrimaryKeyConstraint("id", name="pk_uploaded_weights"),
        sa.UniqueConstraint("owner", "sha256", name="uq_uploaded_weights_owner_sha256"),
    )


def downgrade() -> None:
    op.drop_table("uploaded_weights")
    op.drop_index("ix_runs_initial_weights", "runs")
    op.drop_column("runs", "initial_weights")
