"""Read runs: one, their events and epochs, their position in the queue."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, load_only

from fitserve import db, visibility
from fitserve.errors import Forbidden, NotFound
from fitserve.runs.worker_registry import WORKER_TIMEOUT
from fitserve.states import INTERNAL_KINDS, STACKED_TRIALS, RunKind, RunState
from fitserve.tables import Epoch, Event, Run, Trial, Worker

_RECENT = 50  # recent finished runs from which the start is estimated
_PACED = 9  # finished runs whose measured and estimated seconds are compared
_SLOWEST = 100.0  # a measurement that differs from the estimate by more than this factor is ignored
_UNKNOWN_SECONDS = 10.0  # assumed duration of a run until one has finished


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A queued run's position: 0 is the next one. `estimated_start` is None without live workers."""

    position: int
    estimated_start: datetime | None


def get(session: Session, run_id: str, owner: str | None = None) -> Run:
    """Return a run; with an owner, it must be theirs or shared. Raises NotFound."""
    run = session.get(Run, run_id) if len(run_id) <= 40 and run_id.isprintable() else None
    if run is None or not visibility.sees(owner, run):
        raise NotFound(f"No run {run_id[:64]}.", received=run_id[:64])
    return run


def get_owned(session: Session, run_id: str, owner: str | None) -> Run:
    """Return a run that this owner may change. Raises NotFound; Forbidden if they may only read it."""
    run = get(session, run_id, owner)
    if not visibility.owns(owner, run):
        raise Forbidden("You may only read this run.", fix="Submit its resolved spec as a run of your own.")
    return run


def events_after(session: Session, run_id: str, after: int = 0, limit: int = 500) -> list[Event]:
    """Return events with an id above `after`, in the order of their commits."""
    query = select(Event).where(Event.run_id == run_id, Event.id > after).order_by(Event.id).limit(limit)
    return list(session.scalars(query))


def epochs(
    session: Session, run_id: str, *, after: tuple[int, int] = (-1, 0), trial: int | None = None, limit: int = 1000
) -> list[Epoch]:
    """Return epochs after (trial, epoch), by trial and epoch."""
    last_trial, last_epoch = after
    later = or_(Epoch.trial > last_trial, and_(Epoch.trial == last_trial, Epoch.epoch > last_epoch))
    query = select(Epoch).where(Epoch.run_id == run_id, later).order_by(Epoch.trial, Epoch.epoch).limit(limit)
    if trial is not None:
        query = query.where(Epoch.trial == trial)
    return list(session.scalars(query))


def trials(session: Session, run_id: str, *, after: int = -1, limit: int | None = None) -> list[Trial]:
    """Return a search's trials above number `after`, in order."""
    query = select(Trial).where(Trial.run_id == run_id, Trial.trial > after).order_by(Trial.trial)
    return list(session.scalars(query.limit(limit) if limit is not None else query))


def stack_of(session: Session, run_id: str, trial: int) -> list[str] | None:
    """Return the arguments that varied in the stack in which a search trained this trial; None if it trained alone.

    Read from the run's events.
    """
    query = select(Event.data).where(Event.run_id == run_id, Event.type == "message").order_by(Event.id.desc())
    stacks = (data for data in session.scalars(query) if trial in data.get(STACKED_TRIALS, ()))
    return next((list(data["differing"]) for data in stacks), None)


def latest_epoch(session: Session, run_id: str) -> Epoch | None:
    """Return the last epoch of the highest trial."""
    query = select(Epoch).where(Epoch.run_id == run_id).order_by(Epoch.trial.desc(), Epoch.epoch.desc()).limit(1)
    return session.scalars(query).first()


def running(session: Session, limit: int) -> list[Run]:
    """Return running runs, newest first, without parts of runs."""
    query = select(Run).where(Run.state == RunState.running, Run.kind.not_in(INTERNAL_KINDS)).order_by(Run.id.desc())
    return list(session.scalars(query.limit(limit)))


def queue_position(session: Session, run: Run) -> QueuePosition | None:
    """Return a queued run's position and an estimate of its start; None where it is not queued.

    The estimate: runs ahead of it take turns on the live workers, each for the mean time of recent attempts.
    Trials of other runs come after it, and have no position of their own.
    """
    if run.state != RunState.queued or run.kind in INTERNAL_KINDS:
        return None
    ahead = or_(
        Run.priority > run.priority,
        and_(Run.priority == run.priority, Run.created_at < run.created_at),
        and_(Run.priority == run.priority, Run.created_at == run.created_at, Run.id < run.id),
    )
    position = (
        session.scalar(select(func.count()).where(Run.state == RunState.queued, Run.kind.not_in(INTERNAL_KINDS), ahead))
        or 0
    )
    at = db.now(session)
    alive = Worker.heartbeat_at > at - timedelta(seconds=WORKER_TIMEOUT)
    workers = session.scalar(select(func.count()).where(alive)) or 0
    if workers == 0:
        return QueuePosition(position, None)
    running = session.scalar(select(func.count()).where(Run.state == RunState.running)) or 0
    free = max(0, workers - running)
    if position < free:
        return QueuePosition(position, at)
    turns = math.ceil((position - free + 1) / workers)
    return QueuePosition(position, at + timedelta(seconds=turns * _mean_seconds(session)))


def _mean_seconds(session: Session) -> float:
    finished = (
        select(Run.started_at, Run.finished_at)
        .where(Run.finished_at.is_not(None), Run.started_at.is_not(None), Run.kind.not_in(INTERNAL_KINDS))
        .order_by(Run.finished_at.desc())
        .limit(_RECENT)
    )
    seconds = [(end - start).total_seconds() for start, end in session.execute(finished) if start and end]
    return sum(seconds) / len(seconds) if seconds else _UNKNOWN_SECONDS


def count_by_state(session: Session) -> dict[str, int]:
    """Return the number of runs in every state. Trials do not count: they are parts of a run."""
    rows = session.execute(
        select(Run.state, func.count()).where(Run.kind.not_in(INTERNAL_KINDS)).group_by(Run.state)
    ).all()
    counts = {row[0]: row[1] for row in rows}
    return {str(state): int(counts.get(state, 0)) for state in RunState}


def oldest_queued_seconds(session: Session) -> float:
    """Return the age of the oldest queued run; 0 where none is queued."""
    oldest = session.scalar(
        select(func.min(Run.created_at)).where(Run.state == RunState.queued, Run.kind.not_in(INTERNAL_KINDS))
    )
    return max(0.0, (db.now(session) - oldest).total_seconds()) if oldest else 0.0


def compare_epochs(session: Session, parent_id: str, run_id: str) -> tuple[int, tuple[Epoch | None, Epoch | None]]:
    """Compare the epochs of two runs bit for bit. Return how many are equal, and the first pair that differs.

    The pair is (None, None) if all epochs of the second run are equal; if it succeeded, none may be missing.
    """
    run = get(session, run_id)
    expected, received = _epochs_by_position(session, parent_id), _epochs_by_position(session, run_id)
    equal = 0
    for key in sorted(expected.keys() | received.keys()):
        theirs, ours = expected.get(key), received.get(key)
        if ours is None and run.state != RunState.succeeded:
            break  # not trained yet
        if theirs is None or ours is None or theirs.logs != ours.logs:
            return equal, (theirs, ours)
        equal += 1
    return equal, (None, None)


def _epochs_by_position(session: Session, run_id: str) -> dict[tuple[int, int], Epoch]:
    query = select(Epoch).where(Epoch.run_id == run_id).options(load_only(Epoch.logs))
    return {(row.trial, row.epoch): row for row in session.scalars(query)}


def measured_pace(session: Session) -> float:
    """Return the ratio of measured to estimated training time: the median over the last runs that succeeded.

    A run that stopped early is compared with the estimate for as many epochs as it trained; 1 without such runs.
    """
    rows = session.execute(
        select(Run.estimates, Run.result)
        .where(Run.state == RunState.succeeded, Run.kind == RunKind.training, Run.finished_at.is_not(None))
        .order_by(Run.finished_at.desc())
        .limit(_PACED)
    )
    paces = [pace for estimates, result in rows if (pace := _pace(estimates or {}, result or {})) is not None]
    return min(_SLOWEST, max(1 / _SLOWEST, statistics.median(paces))) if paces else 1.0


def _pace(estimates: Mapping[str, Any], result: Mapping[str, Any]) -> float | None:
    """Return measured over estimated seconds of one run; None where either is unknown."""
    expected, taken = expected_seconds(estimates, result), result.get("seconds")
    return sum(taken.values()) * (estimates.get("pace") or 1.0) / expected if expected and taken else None


def expected_seconds(estimates: Mapping[str, Any], result: Mapping[str, Any]) -> float | None:
    """Return a run's estimated seconds for the epochs that it has trained, which may be fewer; None if unknown."""
    epochs, seconds, startup = (estimates.get(name) for name in ("epochs", "seconds", "startup_seconds"))
    trials = result.get("trials") or ()
    trained = float(sum(trial.get("epochs") or 0 for trial in trials))
    if not (epochs and seconds and startup and trained):
        return None
    if result.get("ensemble"):  # members are trials if they train one after another; an epoch is one of all of them
        trained /= len(trials)
    return float(startup + (seconds - startup) * min(1.0, trained / epochs))
