"""Triggers: an ended run's spec and outcome cannot change; events and the audit log are append-only.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OUTCOME = ("spec", "resolved", "error", "attempt", "finished_at")  # `result` is written last, once
_APPENDED = ("events", "audit")


def _changed(operator: str, cast: str = "") -> str:
    changed = [f"NEW.{column}{cast} {operator} OLD.{column}{cast}" for column in _OUTCOME]
    rewritten = f"(OLD.result IS NOT NULL AND NEW.result{cast} {operator} OLD.result{cast})"
    return f"OLD.state IN ('succeeded', 'failed', 'cancelled') AND ({' OR '.join([*changed, rewritten])})"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER runs_outcome_immutable BEFORE UPDATE ON runs WHEN {_changed('IS NOT')} "
            "BEGIN SELECT RAISE(ABORT, 'the outcome of an ended run is immutable'); END"
        )
        for table in _APPENDED:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER runs_outcome_immutable BEFORE UPDATE ON runs FOR EACH ROW "
        f"WHEN ({_changed('IS DISTINCT FROM', '::text')}) "
        "EXECUTE FUNCTION refuse_change('the outcome of an ended run is immutable')"
    )
    for table in _APPENDED:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW "
            f"EXECUTE FUNCTION refuse_change('{table} is append-only')"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name in ("runs_outcome_immutable", *(f"{t}_no_{c}" for t in _APPENDED for c in ("update", "delete"))):
            op.execute(f"DROP TRIGGER {name}")
        return
    op.execute("DROP TRIGGER runs_outcome_immutable ON runs")
    for table in _APPENDED:
        op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
    op.execute("DROP FUNCTION refuse_change()")
