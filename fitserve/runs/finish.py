"""The end of an attempt: T4 succeeded, T5 failed, T6 queued again, T7 worker lost, T9 cancelled; and T8.

The holder's ends are fenced by its lease. The reaper's go by the lease's expiry and the row as it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, select, update
from sqlalchemy.orm import Session

from fitserve import db, telemetry
from fitserve.blobs import BlobStore, StoredBlob
from fitserve.errors import Conflict
from fitserve.runs.blob_references import keep
from fitserve.runs.history import CANCEL_REQUESTED, FINISHED, RELEASED, Level, Report, record_reports, say
from fitserve.runs.lease import Lease, LeaseLost, queued
from fitserve.runs.queries import own
from fitserve.states import TERMINAL, TRIAL, RunState
from fitserve.strictjson import finite_json
from fitserve.tables import Run

# Inserts the model's version within T4's transaction and returns its number (or None).
Register = Callable[[Session], int | None]


class CancelledFirst(Exception):
    """A cancel was asked for before the result was committed: end the run with `cancelled`."""


def succeed(
    engine: Engine,
    lease: Lease,
    result: Mapping[str, Any],
    *,
    blobs: BlobStore,
    stored: Mapping[str, StoredBlob],
    register: Register,
    reports: tuple[Report, ...] = (),
) -> RunState:
    """T4: commits a result whose blobs (by kind) are durable. Raises LeaseLost, CancelledFirst, BlobVanished.

    Its WHERE excludes a requested cancel, so the row's lock decides between the two.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        where = and_(lease.holds(), Run.cancel_requested_at.is_(None))
        if not _end(session, lease.run_id, where, RunState.succeeded, at):
            ours = session.scalar(select(Run.id).where(lease.holds()))
            raise CancelledFirst(lease.run_id) if ours else LeaseLost(lease.run_id)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        keep(session, blobs, stored, at)
        whole = {**finite_json(dict(result)), "attempt": lease.attempt}
        if (version := register(session)) is not None:
            whole["version"] = version
        session.execute(_on(Run.id == lease.run_id).values(result=whole))
        say(session, lease.run_id, lease.attempt, FINISHED, at, RunState.succeeded, "Succeeded", data=_brief(whole))
    return RunState.succeeded


def _brief(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("attempt", "version", "artifact", "metrics") if key in result}


def fail(
    engine: Engine,
    lease: Lease,
    cause: str,
    message: str,
    data: Mapping[str, Any] | None = None,
    reports: tuple[Report, ...] = (),
) -> RunState:
    """T5: a failure that training again would repeat. A requested cancel goes first. Raises LeaseLost."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = held(session, lease)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        if run.cancel_requested_at is not None:
            return _cancelled(session, lease.holds(), run, at)
        return _failed(session, lease.holds(), run, at, cause, message, data or {})


def cancelled(engine: Engine, lease: Lease, reports: tuple[Report, ...] = ()) -> RunState:
    """T9 by the holder. Raises LeaseLost."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = held(session, lease)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        return _cancelled(session, lease.holds(), run, at)


def hand_back(engine: Engine, lease: Lease, reports: tuple[Report, ...] = ()) -> RunState:
    """T6 in a graceful shutdown: queued again, no attempt spent. Raises LeaseLost."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = held(session, lease)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        if run.cancel_requested_at is not None:
            return _cancelled(session, lease.holds(), run, at)
        return _requeued(session, lease.holds(), run, at, spent=0, message="Handed back by a worker that stops")


def lose(
    engine: Engine,
    lease: Lease,
    max_attempts: int,
    cause: str,
    message: str,
    data: Mapping[str, Any] | None = None,
    reports: tuple[Report, ...] = (),
) -> RunState:
    """T6 or T7 by the holder, whose trainer died or hung: an attempt is spent. Raises LeaseLost."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = held(session, lease)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        return _lost(session, lease.holds(), run, at, max_attempts, cause, message, data or {})


def expire(engine: Engine, max_attempts: int, limit: int = 100) -> list[tuple[str, RunState]]:
    """T6, T7, T9 by whoever looks: what becomes of runs whose lease has run out, each in a transaction of its own."""
    with db.reading(engine) as session:
        late = and_(Run.state == RunState.running, Run.lease_expires_at < db.now(session))
        ids = list(session.scalars(select(Run.id).where(late).order_by(Run.lease_expires_at).limit(limit)))
    outcomes = []
    for run_id in ids:
        with db.transaction(engine) as session:
            at = db.now(session)
            run = session.get(Run, run_id, with_for_update={"skip_locked": True})
            if run is None or run.state != RunState.running or run.lease_expires_at is None:
                continue
            if run.lease_expires_at >= at:
                continue
            where = and_(Run.id == run_id, Run.state == RunState.running, Run.lease_token == run.lease_token)
            message = f"The worker {run.worker} stopped renewing its lease"
            outcomes.append((run_id, _lost(session, where, run, at, max_attempts, "worker_lost", message, {})))
    return outcomes


def cancel(engine: Engine, run_id: str, owner: str | None) -> Run:
    """T8, or the request that leads to T9. Asking again changes nothing. Raises NotFound, Conflict (it is over)."""
    ended = False
    with db.transaction(engine) as session:
        at = db.now(session)
        own(session, run_id, owner)
        run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
        assert run is not None
        if run.state == RunState.queued:
            _cancelled(session, and_(Run.id == run_id, queued()), run, at)
            ended = True
        elif run.state == RunState.running and run.cancel_requested_at is None:
            session.execute(_on(Run.id == run_id, Run.cancel_requested_at.is_(None)).values(cancel_requested_at=at))
            say(session, run_id, run.attempt, CANCEL_REQUESTED, at, run.state, "Cancel requested")
        elif run.state in TERMINAL and run.state != RunState.cancelled:
            raise Conflict(f"The run is over: {run.state}.", received=run.state, expected="queued or running")
        session.refresh(run)
        session.expunge(run)
    if ended:
        telemetry.RUNS_FINISHED.labels("cancelled").inc()
    return run


def take_back(engine: Engine, lease: Lease, trial_run: str) -> Run | None:
    """T8 by the holder of the run whose trial that is, to train it itself. None where it is not queued any more.

    Returns the row as it was, with the checkpoint of a worker that had begun. Raises LeaseLost.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        held(session, lease)
        mine = and_(Run.id == trial_run, Run.parent_id == lease.run_id, Run.kind == TRIAL, queued())
        trial = session.scalars(select(Run).where(mine).with_for_update()).first()
        if trial is None:
            return None
        _cancelled(session, mine, trial, at)
        session.expunge(trial)
        return trial


def _on(*where: ColumnElement[bool]) -> Any:
    return update(Run).where(*where).execution_options(synchronize_session=False)


def held(session: Session, lease: Lease) -> Run:
    """The run, locked until the transaction ends. Raises LeaseLost."""
    run = session.scalars(select(Run).where(lease.holds()).with_for_update()).first()
    if run is None:
        raise LeaseLost(lease.run_id)
    return run


def _end(
    session: Session, run_id: str, where: ColumnElement[bool], state: RunState, at: datetime, **values: Any
) -> bool:
    over = {"finished_at": at, "checkpoint": None, "checkpoint_epoch": None} if state in TERMINAL else {}
    freed = {"lease_token": None, "lease_expires_at": None, "worker": None}
    changed: Any = session.execute(_on(where).values(state=state, **freed, **over, **values))
    if changed.rowcount != 1:
        return False
    if state in TERMINAL:
        _release_trials(session, run_id, at)
    return True


def _release_trials(session: Session, run_id: str, at: datetime) -> None:
    """Whatever way a run ends, none of its trials that others train, or may begin to, outlives it.

    Locked first: between two updates a trial could go from the one state to the other, unseen by both.
    """
    live = Run.state.in_((RunState.queued, RunState.running))
    trials = select(Run).where(Run.parent_id == run_id, Run.kind == TRIAL, live).order_by(Run.id).with_for_update()
    for trial in session.scalars(trials.execution_options(populate_existing=True)).all():
        if trial.state == RunState.queued:
            _cancelled(session, and_(Run.id == trial.id, queued()), trial, at)
        elif trial.cancel_requested_at is None:
            session.execute(_on(Run.id == trial.id).values(cancel_requested_at=at))
            say(session, trial.id, trial.attempt, CANCEL_REQUESTED, at, trial.state, "Cancel requested")


def _must_end(session: Session, where: ColumnElement[bool], run: Run, state: RunState, at: datetime, **to: Any) -> None:
    if not _end(session, run.id, where, state, at, **to):
        raise LeaseLost(run.id)


def _cancelled(session: Session, where: ColumnElement[bool], run: Run, at: datetime) -> RunState:
    requested = run.cancel_requested_at or at
    _must_end(session, where, run, RunState.cancelled, at, cancel_requested_at=requested)
    say(session, run.id, run.attempt, FINISHED, at, RunState.cancelled, "Cancelled")
    return RunState.cancelled


def _failed(
    session: Session,
    where: ColumnElement[bool],
    run: Run,
    at: datetime,
    cause: str,
    message: str,
    data: Mapping[str, Any],
    **values: Any,
) -> RunState:
    error = finite_json({"cause": cause, "detail": message, **data})
    _must_end(session, where, run, RunState.failed, at, error=error, **values)
    say(session, run.id, run.attempt, FINISHED, at, RunState.failed, message, level="error", data=error)
    return RunState.failed


def _requeued(
    session: Session, where: ColumnElement[bool], run: Run, at: datetime, spent: int, message: str
) -> RunState:
    _must_end(session, where, run, RunState.queued, at, dispatched_at=None, spent_attempts=run.spent_attempts + spent)
    data = {"resumes_after_epoch": run.checkpoint_epoch} if run.checkpoint_epoch else {}
    level: Level = "warn" if spent else "info"
    say(session, run.id, run.attempt, RELEASED, at, RunState.queued, message, level=level, data=data)
    return RunState.queued


def _lost(
    session: Session,
    where: ColumnElement[bool],
    run: Run,
    at: datetime,
    max_attempts: int,
    cause: str,
    message: str,
    data: Mapping[str, Any],
) -> RunState:
    if run.cancel_requested_at is not None:
        return _cancelled(session, where, run, at)
    spent = run.spent_attempts + 1
    if spent < max_attempts:
        return _requeued(session, where, run, at, spent=1, message=f"{message}; queued again")
    detail = f"{message}. All {spent} attempts are used up"
    return _failed(session, where, run, at, cause, detail, {**data, "attempts": spent}, spent_attempts=spent)
