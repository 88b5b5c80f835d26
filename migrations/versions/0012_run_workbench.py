"""Names, tags, notes and scores of runs; runs of one dataset by time; a run can be deleted with its events.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fitserve.tables import UtcTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_REFUSE = "RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation';"
_DELETED = "EXISTS (SELECT 1 FROM runs WHERE id = OLD.run_id AND deleted_at IS NOT NULL)"


def upgrade() -> None:
    op.add_column("runs", sa.Column("name", sa.String(120), nullable=True))
    op.add_column("runs", sa.Column("tags", sa.JSON(none_as_null=True), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("runs", sa.Column("notes", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("scores", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("runs", sa.Column("deleted_at", UtcTime(), nullable=True))
    op.create_index("ix_runs_dataset_id_id", "runs", ["dataset_id", "id"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER events_no_delete")
        op.execute(
            f"CREATE TRIGGER events_no_delete BEFORE DELETE ON events WHEN NOT {_DELETED} "
            "BEGIN SELECT RAISE(ABORT, 'events is append-only'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION refuse_event_delete() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN IF {_DELETED} THEN RETURN OLD; END IF; {_REFUSE} END $$"
    )
    op.execute("DROP TRIGGER events_append_only ON events")
    _guard_events("events_append_only", "UPDATE", "refuse_change")
    _guard_events("events_no_delete", "DELETE", "refuse_event_delete")


def _guard_events(name: str, change: str, function: str) -> None:
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {change} ON events FOR EACH ROW "
        f"EXECUTE FUNCTION {function}('events is append-only')"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER events_no_delete")
        op.execute(
            "CREATE TRIGGER events_no_delete BEFORE DELETE ON events "
            "BEGIN SELECT RAISE(ABORT, 'events is append-only'); END"
        )
    else:
        op.execute("DROP TRIGGER events_no_delete ON events")
        op.execute("DROP TRIGGER events_append_only ON events")
        op.execute("DROP FUNCTION refuse_event_delete()")
        _guard_events("events_append_only", "UPDATE OR DELETE", "refuse_change")
    op.drop_index("ix_runs_dataset_id_id", "runs")
    for column in ("deleted_at", "scores", "notes", "tags", "name"):
        op.drop_column("runs", column)
