"""What an owner may change of a run, whatever its state: name, tags, notes, sharing; and its deletion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.errors import Conflict
from fitserve.runs import cleanup
from fitserve.runs.queries import get_owned
from fitserve.states import INTERNAL_KINDS, TERMINAL, RunKind
from fitserve.tables import Epoch, Event, GangMember, Idempotency, Run, Trial, Version

CHANGEABLE = frozenset({"name", "tags", "notes", "shared"})


def change_run(engine: Engine, run_id: str, owner: str | None, values: Mapping[str, Any]) -> None:
    """Set some of `CHANGEABLE`. A shared run is readable by every owner. Raises NotFound, Forbidden."""
    assert values.keys() <= CHANGEABLE
    with db.transaction(engine) as session:
        run = get_owned(session, run_id, owner)
        if values:
            session.execute(update(Run).where(Run.id == run.id).values(**values))


def change_tags(engine: Engine, run_id: str, owner: str | None, *, add: str = "", remove: str = "") -> None:
    """Add or remove one tag, whatever the others are. Raises NotFound, Forbidden."""
    with db.transaction(engine) as session:
        get_owned(session, run_id, owner)
        run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
        assert run is not None
        tags = [tag for tag in run.tags if tag not in (add, remove)] + ([add] if add else [])
        session.execute(update(Run).where(Run.id == run_id).values(tags=tags))


def delete_run(engine: Engine, run_id: str, owner: str | None) -> None:
    """Delete an ended run with its epochs, events and trials; its files are collected once nothing refers to them.

    A run that changed or repeated it becomes one of its parent's. Raises NotFound, Forbidden, Conflict (it has not
    ended, or a model's version is made of it).
    """
    with db.transaction(engine) as session:
        get_owned(session, run_id, owner)
        run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
        assert run is not None
        if run.state not in TERMINAL:
            raise Conflict(f"The run is {run.state}.", received=run.state, fix="Cancel it first.")
        if run.kind in INTERNAL_KINDS:
            raise Conflict(f"The run is a {run.kind} of another.", received=run.kind, fix=f"Delete {run.parent_id}.")
        if cleanup.is_pending(session, run_id):
            what = "What the run has written to its destination is still being removed."
            raise Conflict(what, received=run_id, fix="Delete it once that is done.")
        version = session.scalar(select(Version).where(Version.run_id == run_id))
        if version is not None:
            raise Conflict(
                f"Version {version.version} of the model {version.model} was trained by it.",
                received=run_id,
                fix="A version can be traced back to its run: delete the model first.",
            )
        _delete(session, run)


def _delete(session: Session, run: Run) -> None:
    of_run = Run.parent_id == run.id
    for trial in session.scalars(select(Run).where(of_run, Run.kind.in_(INTERNAL_KINDS))):
        _delete(session, trial)
    session.execute(update(Run).where(of_run, Run.kind == RunKind.reproduction).values(parent_id=None))
    session.execute(update(Run).where(of_run).values(parent_id=run.parent_id))
    # Events are append-only, but for those of a run that is being deleted.
    session.execute(update(Run).where(Run.id == run.id).values(deleted_at=db.now(session)))
    for table in (Event, Epoch, Trial, GangMember, Idempotency):
        session.execute(delete(table).where(table.run_id == run.id))
    session.execute(delete(Run).where(Run.id == run.id))
