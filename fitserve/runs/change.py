"""What an owner may change of a run, whatever its state: name, tags, notes, sharing; and its deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def retag(run: Run, *, add: str = "", remove: str = "") -> None:
    """Add or remove one tag of a run that this transaction has locked, leaving other tags as they are."""
    run.tags = [tag for tag in run.tags if tag not in (add, remove)] + ([add] if add else [])


def delete_run(engine: Engine, run_id: str, owner: str | None) -> None:
    """Delete an ended run with its epochs, events and trials; its files are collected once nothing refers to them.

    Its child runs become children of its parent. Raises NotFound, Forbidden, Conflict (it has not ended, or a model's
    version was trained by it).
    """
    with db.transaction(engine) as session:
        get_owned(session, run_id, owner)
        run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
        assert run is not None
        for refusal in delete_locked(session, [run]).values():
            raise refusal


def delete_locked(session: Session, runs: Sequence[Run]) -> dict[str, Conflict]:
    """Delete those of these locked runs that can be deleted. Return the errors for the others, by id."""
    ids = [run.id for run in runs]
    cleaned = cleanup.pending(session, ids)
    of_runs = select(Version.run_id, Version.model, Version.version).where(Version.run_id.in_(ids))
    versions = {
        run_id: f"Version {version} of the model {model}" for run_id, model, version in session.execute(of_runs)
    }
    refused = {
        run.id: why
        for run in runs
        if (why := _why_not_deleted(run, is_cleaned=run.id in cleaned, version=versions.get(run.id))) is not None
    }
    _delete(session, [run for run in runs if run.id not in refused])
    return refused


def _why_not_deleted(run: Run, *, is_cleaned: bool, version: str | None) -> Conflict | None:
    """Return why a run cannot be deleted; None where it can."""
    if run.state not in TERMINAL:
        return Conflict(f"The run is {run.state}.", received=run.state, fix="Cancel it first.")
    if run.kind in INTERNAL_KINDS:
        return Conflict(f"The run is a {run.kind} of another.", received=run.kind, fix=f"Delete {run.parent_id}.")
    if is_cleaned:
        what = "What the run has written to its destination is still being removed."
        return Conflict(what, received=run.id, fix="Delete it once that is done.")
    if version is not None:
        return Conflict(
            f"{version} was trained by it.",
            received=run.id,
            fix="A version can be traced back to its run: delete the model first.",
        )
    return None


def _delete(session: Session, runs: Sequence[Run]) -> None:
    ids = [run.id for run in runs]
    if not ids:
        return
    parents = set(session.scalars(select(Run.parent_id).where(Run.parent_id.in_(ids))))
    for run in runs:
        if run.id in parents:  # rare, and each takes its own database query
            _part_from_children(session, run)
    # Events are append-only, except those of a run that is being deleted.
    session.execute(update(Run).where(Run.id.in_(ids)).values(deleted_at=db.now(session)))
    for table in (Event, Epoch, Trial, GangMember, Idempotency):
        session.execute(delete(table).where(table.run_id.in_(ids)))
    session.execute(delete(Run).where(Run.id.in_(ids)))


def _part_from_children(session: Session, run: Run) -> None:
    """Delete a run's parts, and make its children the children of its parent."""
    of_run = Run.parent_id == run.id
    _delete(session, session.scalars(select(Run).where(of_run, Run.kind.in_(INTERNAL_KINDS))).all())
    session.execute(update(Run).where(of_run, Run.kind == RunKind.reproduction).values(parent_id=None))
    session.execute(update(Run).where(of_run).values(parent_id=run.parent_id))
