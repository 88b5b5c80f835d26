"""Looking at runs: one, lists, their events and epochs, their place in the queue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, load_only

from fitserve import db
from fitserve.errors import Forbidden, NotFound
from fitserve.states import TRIAL, RunState
from fitserve.tables import Epoch, Event, Run, Worker

WORKER_LIVES = 60.0  # seconds after its last sign
_RECENT = 50  # finished runs that an estimate looks back on


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued run stands: 0 is the next one. `estimated_start` is None where no worker lives."""

    position: int
    estimated_start: datetime | None


def get(session: Session, run_id: str, owner: str | None = None) -> Run:
    """A run; with an owner, one of theirs or a shared one. Raises NotFound."""
    run = session.get(Run, run_id) if len(run_id) <= 40 and run_id.isprintable() else None
    if run is None or not (owner is None or run.owner == owner or run.shared):
        raise NotFound(f"No run {run_id[:64]}.", received=run_id[:64])
    return run


def own(session: Session, run_id: str, owner: str | None) -> Run:
    """A run that this owner may change. Raises NotFound, Forbidden where it is shared with them to look at."""
    run = get(session, run_id, owner)
    if owner is not None and run.owner != owner:
        raise Forbidden("This run is shared with you to look at.", fix="Submit its resolved spec as a run of your own.")
    return run


def listing(
    session: Session,
    *,
    owner: str | None = None,
    states: Sequence[str] = (),
    model: str | None = None,
    dataset_id: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[Run]:
    """Runs, newest first; `before` is an id (ids sort by time); with an owner: theirs and shared ones.

    Specs are left out, and so are trials that are trained apart: they are parts of a run.
    """
    brief = load_only(
        *(Run.id, Run.kind, Run.owner, Run.dataset_id, Run.model, Run.state, Run.priority, Run.attempt, Run.result),
        *(
            Run.shared,
            Run.error,
            Run.parent_id,
            Run.created_at,
            Run.started_at,
            Run.finished_at,
            Run.cancel_requested_at,
        ),
        raiseload=True,
    )
    query = select(Run).options(brief).where(Run.kind != TRIAL).order_by(Run.id.desc()).limit(limit)
    if states:
        query = query.where(Run.state.in_(states))
    if model is not None:
        query = query.where(Run.model == model)
    if dataset_id is not None:
        query = query.where(Run.dataset_id == dataset_id)
    if before is not None:
        query = query.where(Run.id < before)
    if owner is None:
        return list(session.scalars(query))
    # Two queries, each by an index of its own: one with OR would walk through everybody's runs.
    theirs = session.scalars(query.where(Run.owner == owner)).all()
    others = session.scalars(query.where(Run.shared, Run.owner != owner)).all()
    return sorted([*theirs, *others], key=lambda run: run.id, reverse=True)[:limit]


def events_after(session: Session, run_id: str, after: int = 0, limit: int = 500) -> list[Event]:
    """Events with an id above `after`, in the order in which they were committed."""
    query = select(Event).where(Event.run_id == run_id, Event.id > after).order_by(Event.id).limit(limit)
    return list(session.scalars(query))


def epochs(
    session: Session, run_id: str, *, after: tuple[int, int] = (-1, 0), trial: int | None = None, limit: int = 1000
) -> list[Epoch]:
    """Epochs after (trial, epoch), by trial and epoch."""
    last_trial, last_epoch = after
    later = or_(Epoch.trial > last_trial, and_(Epoch.trial == last_trial, Epoch.epoch > last_epoch))
    query = select(Epoch).where(Epoch.run_id == run_id, later).order_by(Epoch.trial, Epoch.epoch).limit(limit)
    if trial is not None:
        query = query.where(Epoch.trial == trial)
    return list(session.scalars(query))


def latest_epoch(session: Session, run_id: str) -> Epoch | None:
    """The epoch that came in last: of the highest trial."""
    query = select(Epoch).where(Epoch.run_id == run_id).order_by(Epoch.trial.desc(), Epoch.epoch.desc()).limit(1)
    return session.scalars(query).first()


def place(session: Session, run: Run) -> Place | None:
    """A queued run's place in the queue and an estimate of its start; None where it is not queued.

    The estimate: runs ahead of it take turns on the live workers, each for the mean time of recent attempts.
    Trials of other runs go after it, and have no place of their own.
    """
    if run.state != RunState.queued or run.kind == TRIAL:
        return None
    ahead = or_(
        Run.priority > run.priority,
        and_(Run.priority == run.priority, Run.created_at < run.created_at),
        and_(Run.priority == run.priority, Run.created_at == run.created_at, Run.id < run.id),
    )
    position = session.scalar(select(func.count()).where(Run.state == RunState.queued, Run.kind != TRIAL, ahead)) or 0
    at = db.now(session)
    alive = Worker.heartbeat_at > at - timedelta(seconds=WORKER_LIVES)
    workers = session.scalar(select(func.count()).where(alive)) or 0
    if workers == 0:
        return Place(position, None)
    running = session.scalar(select(func.count()).where(Run.state == RunState.running)) or 0
    free = max(0, workers - running)
    if position < free:
        return Place(position, at)
    turns = math.ceil((position - free + 1) / workers)
    return Place(position, at + timedelta(seconds=turns * _mean_seconds(session)))


def _mean_seconds(session: Session) -> float:
    finished = (
        select(Run.started_at, Run.finished_at)
        .where(Run.finished_at.is_not(None), Run.started_at.is_not(None), Run.kind != TRIAL)
        .order_by(Run.finished_at.desc())
        .limit(_RECENT)
    )
    seconds = [(end - start).total_seconds() for start, end in session.execute(finished) if start and end]
    return sum(seconds) / len(seconds) if seconds else 10.0


def counts(session: Session) -> dict[str, int]:
    """Runs by state, every state named; trials that are trained apart are parts of one."""
    rows = session.execute(select(Run.state, func.count()).where(Run.kind != TRIAL).group_by(Run.state)).all()
    found = {row[0]: row[1] for row in rows}
    return {str(state): int(found.get(state, 0)) for state in RunState}


def oldest_queued_seconds(session: Session) -> float:
    """Age of the oldest queued run; 0 where none waits."""
    oldest = session.scalar(select(func.min(Run.created_at)).where(Run.state == RunState.queued, Run.kind != TRIAL))
    return max(0.0, (db.now(session) - oldest).total_seconds()) if oldest else 0.0


def first_difference(session: Session, parent_id: str, run_id: str) -> tuple[int, tuple[Epoch | None, Epoch | None]]:
    """Compares the epochs of two runs, to the bit: how many were equal, then the first pair that is not.

    The pair is (None, None) where all are equal that the second run has, or must have because it is over.
    """
    run = get(session, run_id)
    expected, received = _all_epochs(session, parent_id), _all_epochs(session, run_id)
    equal = 0
    for key in sorted(expected.keys() | received.keys()):
        theirs, ours = expected.get(key), received.get(key)
        if ours is None and run.state != RunState.succeeded:
            break  # not trained yet
        if theirs is None or ours is None or theirs.logs != ours.logs:
            return equal, (theirs, ours)
        equal += 1
    return equal, (None, None)


def _all_epochs(session: Session, run_id: str) -> dict[tuple[int, int], Epoch]:
    query = select(Epoch).where(Epoch.run_id == run_id).options(load_only(Epoch.logs))
    return {(row.trial, row.epoch): row for row in session.scalars(query)}
