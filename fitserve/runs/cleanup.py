"""Cleanup runs: remove external data that a run wrote before it ended without its worker.

A cleanup run is queued in the transaction that ends the other run, so no external data is forgotten if a process dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.runs.create import NewRun, add_run
from fitserve.runs.history import CLEANED_UP, Level, add_event
from fitserve.states import INTERNAL_KINDS, TERMINAL, RunKind, RunState
from fitserve.tables import Event, Run


def queue(session: Session, run: Run, at: datetime) -> str | None:
    """Queue the cleanup of a run that is ending. Return its id; None if the run has written nothing outside."""
    if run.kind in INTERNAL_KINDS or run.attempt == 0:
        return None
    destination = run.resolved.get("destination")
    if destination is None:
        return None
    new = NewRun(
        owner=run.owner,
        dataset_id=run.dataset_id,
        spec={"run": run.id},
        resolved={"destination": destination},
        estimates={},
        kind=RunKind.cleanup,
        priority=run.priority,
        parent_id=run.id,
    )
    return add_run(session, new, new_id("run"), at).id


def pending(session: Session, run_ids: Sequence[str]) -> set[str]:
    """Return those of these runs whose cleanup is still pending."""
    mine = (Run.parent_id.in_(run_ids), Run.kind == RunKind.cleanup, Run.state.not_in(TERMINAL))
    return {run_id for run_id in session.scalars(select(Run.parent_id).where(*mine)) if run_id is not None}


def has_writers(engine: Engine, run_id: str) -> bool:
    """Return whether a worker still holds a part of an ended run, and may still write."""
    with db.reading(engine) as session:
        mine = (Run.parent_id == run_id, Run.kind == RunKind.part, Run.state == RunState.running)
        return session.scalar(select(Run.id).where(*mine).limit(1)) is not None


def record(session: Session, run_id: str, remains: list[str]) -> None:
    """Record in an ended run's events what the cleanup left behind; only the first such event is stored."""
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        return
    recorded = (Event.run_id == run_id, Event.attempt == run.attempt, Event.seq == CLEANED_UP)
    if session.scalar(select(Event.id).where(*recorded)) is None:
        at, data = db.now(session), {"remains": remains}
        message = describe(remains)
        level: Level = "warn" if remains else "info"
        add_event(session, run_id, run.attempt, CLEANED_UP, at, run.state, message, level=level, data=data)


def describe(remains: Sequence[str]) -> str:
    """Describe the external data that remains of a run."""
    return f"What remains: {', '.join(remains)}" if remains else "Nothing remains at the destination"
