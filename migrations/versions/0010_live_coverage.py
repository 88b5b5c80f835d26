"""Live coverage of intervals and calibration by ground truth, and the levels adjusted to it.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("kept_predictions", sa.Column("bounds", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("feedback", sa.Column("level", sa.Double(), nullable=True))
    op.add_column("feedback", sa.Column("covered", sa.Boolean(), nullable=True))
    op.add_column("feedback", sa.Column("slice", sa.String(200), nullable=True))
    op.add_column("feedback", sa.Column("confidence", sa.Double(), nullable=True))
    op.add_column("feedback", sa.Column("confidence_bin", _INTEGER, nullable=True))
    op.add_column("feedback", sa.Column("likeliest_right", sa.Boolean(), nullable=True))
    op.add_column("feedback", sa.Column("brier", sa.Double(), nullable=True))
    op.add_column("feedback", sa.Column("log_loss", sa.Double(), nullable=True))
    op.create_table(
        "adaptive_levels",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", _INTEGER, nullable=False),
        sa.Column("output", sa.String(255), nullable=False),
        sa.Column("error_rate", sa.Double(), nullable=False),
        sa.Column("rows", _INTEGER, nullable=False),
        sa.Column("changed_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "output", name="pk_adaptive_levels"),
        sa.ForeignKeyConstraint(
            ["model", "version"], ["versions.model", "versions.version"], name="fk_adaptive_levels_model_versions"
        ),
    )


def downgrade() -> None:
    op.drop_table("adaptive_levels")
    for name in ("log_loss", "brier", "likeliest_right", "confidence_bin", "confidence", "slice", "covered", "level"):
        op.drop_column("feedback", name)
    op.drop_column("kept_predictions", "bounds")
