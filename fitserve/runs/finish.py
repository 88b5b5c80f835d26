"""The end of an attempt: T4 succeeded, T5 failed, T6 queued again, T7 worker lost, T9 cancelled; and T8.

The holder's writes are fenced by its lease; the reaper's by the lease token it has read, and by the lease's expiry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, func, select, update
from sqlalchemy.orm import Session

from fitserve import db, events, telemetry
from fitserve.blobs import BlobStore, StoredBlob
from fitserve.errors import Conflict
from fitserve.runs import cleanup
from fitserve.runs.blob_references import add_references
from fitserve.runs.history import CANCEL_REQUESTED, FINISHED, RELEASED, Report, add_event, record_reports
from fitserve.runs.lease import Lease, LeaseLost, queued
from fitserve.runs.queries import get_owned
from fitserve.runs.scores import scores_of
from fitserve.states import DEPENDENT_KINDS, INTERNAL_KINDS, TERMINAL, FailureCause, RunState
from fitserve.strictjson import finite_json
from fitserve.tables import Epoch, Run, Trial

# Inserts what the run registers, such as a model's version, in T4's transaction; returns entries for the result.
Register = Callable[[Session], Mapping[str, Any]]


class CancelledFirst(Exception):
    """A cancel was requested before the result was committed: end the run as cancelled."""


class IncompleteHistory(Exception):
    """Epochs are missing between those that were recorded: the result must not be committed."""


def succeed(
    engine: Engine,
    lease: Lease,
    result: Mapping[str, Any],
    *,
    blobs: BlobStore,
    stored: Mapping[str, StoredBlob],
    register: Register,
    reports: Sequence[Report] = (),
) -> RunState:
    """T4: commit a result whose blobs (by kind) are durable.

    Raises LeaseLost, CancelledFirst, BlobVanished, IncompleteHistory. The WHERE excludes runs with a requested cancel,
    so the row lock decides whether success or cancel comes first.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        where = and_(lease.holds(), Run.cancel_requested_at.is_(None))
        if not _update_run(session, lease.run_id, where, RunState.succeeded, at):
            ours = session.scalar(select(Run.id).where(lease.holds()))
            raise CancelledFirst(lease.run_id) if ours else LeaseLost(lease.run_id)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        _end_trial_rows(session, lease.run_id, RunState.succeeded, at)
        _check_history(session, lease.run_id)
        add_references(session, blobs, stored, at)
        whole = {**finite_json(dict(result)), "attempt": lease.attempt, **register(session)}
        session.execute(_update(Run.id == lease.run_id).values(result=whole, scores=scores_of(whole)))
        data = {key: whole[key] for key in ("attempt", "version", "artifact", "metrics") if key in whole}
        add_event(session, lease.run_id, lease.attempt, FINISHED, at, RunState.succeeded, "Succeeded", data=data)
        facts = {key: whole[key] for key in ("version", "metrics") if key in whole}
        if (made := whole.get("dataset_id")) is not None:
            facts["made"] = made
        _record_end_event(session, session.get_one(Run, lease.run_id), RunState.succeeded, at, facts)
    return RunState.succeeded


def _record_end_event(session: Session, run: Run, state: RunState, at: datetime, facts: Mapping[str, Any]) -> None:
    """Record the event of a run's end. Trials are not submitted by anyone, so they have no such event."""
    if run.kind in INTERNAL_KINDS:
        return
    data = {"run": run.id, "kind": run.kind, "dataset": run.dataset_id, "model": run.model, **facts}
    events.record(session, f"run.{state}", owner=run.owner, data=data, at=at)


def _check_history(session: Session, run_id: str) -> None:
    """Raise IncompleteHistory unless each trial's epochs are numbered from 1 without a gap."""
    trials = select(Epoch.trial, func.count(), func.max(Epoch.epoch)).where(Epoch.run_id == run_id)
    for trial, count, last in session.execute(trials.group_by(Epoch.trial)):
        if count != last:
            raise IncompleteHistory(f"Trial {trial + 1} has {count} recorded epochs of {last}")


def fail(
    engine: Engine,
    lease: Lease,
    cause: FailureCause,
    message: str,
    data: Mapping[str, Any] | None = None,
    reports: Sequence[Report] = (),
    *,
    clean: bool = False,
) -> RunState:
    """T5: a failure that another attempt would repeat. A requested cancel takes precedence. Raises LeaseLost.

    `clean`, here and below: the holder has removed the run's external data, so no cleanup run is needed.
    """
    with _locked(engine, lease, reports, clean=clean) as ending:
        if ending.run.cancel_requested_at is not None:
            return ending.cancel()
        return ending.fail(cause, message, data or {})


def confirm_cancel(engine: Engine, lease: Lease, reports: Sequence[Report] = (), *, clean: bool = False) -> RunState:
    """T9 by the holder. Raises LeaseLost."""
    with _locked(engine, lease, reports, clean=clean) as ending:
        return ending.cancel()


def release(
    engine: Engine,
    lease: Lease,
    reports: Sequence[Report] = (),
    why: str = "Released by a worker that is shutting down",
) -> RunState:
    """T6 in a graceful shutdown, or to yield to others: queue again, spending no attempt. Raises LeaseLost."""
    with _locked(engine, lease, reports) as ending:
        if ending.run.cancel_requested_at is not None:
            return ending.cancel()
        return ending.requeue(why, spent=0)


def lose(
    engine: Engine,
    lease: Lease,
    max_attempts: int,
    cause: FailureCause,
    message: str,
    data: Mapping[str, Any] | None = None,
    reports: Sequence[Report] = (),
    *,
    start_over: bool = False,
    clean: bool = False,
) -> RunState:
    """T6 or T7 by the holder after its trainer died or hung; spends an attempt. Raises LeaseLost.

    With `start_over` the next attempt does not use the run's checkpoint.
    """
    with _locked(engine, lease, reports, clean=clean) as ending:
        if start_over:
            ending.run.checkpoint = ending.run.checkpoint_epoch = None
        return ending.lose(max_attempts, cause, message, data or {})


def expire_leases(engine: Engine, max_attempts: int, limit: int = 100) -> list[tuple[str, RunState]]:
    """T6, T7, T9 by any process: end attempts whose lease has expired, each in a transaction of its own.

    Returns the runs' ids with their new states.
    """
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
            outcomes.append(
                (run_id, _Ending(session, run, where, at).lose(max_attempts, FailureCause.worker_lost, message, {}))
            )
    return outcomes


def cancel(engine: Engine, run_id: str, owner: str | None) -> Run:
    """T8, or the request that leads to T9. Idempotent. Raises NotFound, Conflict (the run has ended)."""
    with db.transaction(engine) as session:
        at = db.now(session)
        get_owned(session, run_id, owner)
        run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
        assert run is not None
        ended = cancel_locked(session, run, at)
        session.refresh(run)
        session.expunge(run)
    if ended:
        count_cancelled(1)
    return run


def cancel_locked(session: Session, run: Run, at: datetime) -> bool:
    """Cancel a run that this transaction has locked. Return whether it has ended.

    Raises Conflict before anything is written.
    """
    if run.state == RunState.queued:
        _Ending(session, run, and_(Run.id == run.id, queued()), at).cancel()
        return True
    if run.state == RunState.running and run.cancel_requested_at is None:
        session.execute(_update(Run.id == run.id, Run.cancel_requested_at.is_(None)).values(cancel_requested_at=at))
        add_event(session, run.id, run.attempt, CANCEL_REQUESTED, at, run.state, "Cancel requested")
    elif run.state in TERMINAL and run.state != RunState.cancelled:
        raise Conflict(f"The run is over: {run.state}.", received=run.state, expected="queued or running")
    return False


def count_cancelled(runs: int) -> None:
    """Count runs whose cancellation is committed."""
    telemetry.RUNS_FINISHED.labels("cancelled").inc(runs)


def withdraw_trial(engine: Engine, lease: Lease, trial_run: str) -> Run | None:
    """T8 by the search's holder, to train the trial itself. Returns None if the trial is no longer queued.

    Returns the row as it was, with the checkpoint of any worker that had begun the trial. Raises LeaseLost.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        lock_run(session, lease)
        mine = and_(Run.id == trial_run, Run.parent_id == lease.run_id, Run.kind.in_(INTERNAL_KINDS), queued())
        trial = session.scalars(select(Run).where(mine).with_for_update()).first()
        if trial is None:
            return None
        _Ending(session, trial, mine, at).cancel()
        session.expunge(trial)
        return trial


def cancel_divided(engine: Engine, lease: Lease) -> None:
    """Cancel trials or parts held by other workers, before the run that offered them ends. Raises LeaseLost."""
    with db.transaction(engine) as session:
        run = lock_run(session, lease)
        end_parts(session, run.id, INTERNAL_KINDS, db.now(session))


def lock_run(session: Session, lease: Lease) -> Run:
    """Return the run, locked until the transaction ends. Raises LeaseLost."""
    run = session.scalars(select(Run).where(lease.holds()).with_for_update()).first()
    if run is None:
        raise LeaseLost(lease.run_id)
    return run


@contextmanager
def _locked(engine: Engine, lease: Lease, reports: Sequence[Report], *, clean: bool = False) -> Iterator[_Ending]:
    """Lock the holder's run and record its last reports, in the same transaction as the block."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = lock_run(session, lease)
        record_reports(session, lease.run_id, lease.attempt, reports, at)
        yield _Ending(session, run, lease.holds(), at, clean)


@dataclass(frozen=True, slots=True)
class _Ending:
    """The end of a run's attempt, within one transaction. `where` is the condition of its UPDATE."""

    session: Session
    run: Run
    where: ColumnElement[bool]
    at: datetime
    clean: bool = False

    def cancel(self) -> RunState:
        requested = self.run.cancel_requested_at or self.at
        self._update_or_raise(RunState.cancelled, cancel_requested_at=requested)
        self._add_event(FINISHED, RunState.cancelled, "Cancelled", data=self._clean_up())
        _record_end_event(self.session, self.run, RunState.cancelled, self.at, {})
        return RunState.cancelled

    def fail(self, cause: FailureCause, message: str, data: Mapping[str, Any], **values: Any) -> RunState:
        error = finite_json({"cause": cause, "detail": message, **data, **self._clean_up()})
        self._update_or_raise(RunState.failed, error=error, **values)
        self._add_event(FINISHED, RunState.failed, message, level="error", data=error)
        facts = {"error": {"cause": cause, "detail": message}}
        _record_end_event(self.session, self.run, RunState.failed, self.at, facts)
        return RunState.failed

    def _clean_up(self) -> dict[str, str]:
        """Queue the cleanup of the run's external data. Return the cleanup run's id, for the error."""
        queued_run = None if self.clean else cleanup.queue(self.session, self.run, self.at)
        return {} if queued_run is None else {"cleanup": queued_run}

    def requeue(self, message: str, spent: int) -> RunState:
        run = self.run
        self._update_or_raise(RunState.queued, dispatched_at=None, spent_attempts=run.spent_attempts + spent)
        data = {"resumes_after_epoch": run.checkpoint_epoch} if run.checkpoint_epoch else {}
        self._add_event(RELEASED, RunState.queued, message, level="warn" if spent else "info", data=data)
        return RunState.queued

    def lose(self, max_attempts: int, cause: FailureCause, message: str, data: Mapping[str, Any]) -> RunState:
        """Spend an attempt: queue the run again, or fail it if that was the last attempt."""
        if self.run.cancel_requested_at is not None:
            return self.cancel()
        spent = self.run.spent_attempts + 1
        if spent < max_attempts:
            return self.requeue(f"{message}; queued again", spent=1)
        detail = f"{message}. All {spent} attempts are used up"
        return self.fail(cause, detail, {**data, "attempts": spent}, spent_attempts=spent)

    def _update_or_raise(self, state: RunState, **values: Any) -> None:
        if not _update_run(self.session, self.run.id, self.where, state, self.at, **values):
            raise LeaseLost(self.run.id)

    def _add_event(self, seq: int, state: RunState, message: str, **options: Any) -> None:
        add_event(self.session, self.run.id, self.run.attempt, seq, self.at, state, message, **options)


def _update_run(
    session: Session, run_id: str, where: ColumnElement[bool], state: RunState, at: datetime, **values: Any
) -> bool:
    """Return whether the run was changed; False if `where` no longer holds."""
    over = {"finished_at": at, "checkpoint": None, "checkpoint_epoch": None} if state in TERMINAL else {}
    freed = {"lease_token": None, "lease_expires_at": None, "worker": None}
    changed: Any = session.execute(_update(where).values(state=state, **freed, **over, **values))
    if changed.rowcount != 1:
        return False
    if state in TERMINAL:
        end_parts(session, run_id, DEPENDENT_KINDS, at)
        if state != RunState.succeeded:  # a success records its last reports after this
            _end_trial_rows(session, run_id, state, at)
    return True


def _end_trial_rows(session: Session, run_id: str, state: RunState, at: datetime) -> None:
    """End the trials of a search that were in training; none may run after the search has ended."""
    what = "was cancelled" if state == RunState.cancelled else str(state)
    session.execute(
        update(Trial)
        .where(Trial.run_id == run_id, Trial.state == "running")
        .values(state="failed", reason=f"The run {what} before this trial ended.", finished_at=at)
        .execution_options(synchronize_session=False)
    )


def end_parts(session: Session, run_id: str, kinds: Sequence[str], at: datetime, keep: Sequence[str] = ()) -> None:
    """Cancel a run's parts of these kinds that workers hold or may claim, except `keep`.

    No part outlives its run. The parts are locked first, because one could change state between the two updates and be
    missed by both.
    """
    live = Run.state.in_((RunState.queued, RunState.running))
    mine = and_(Run.parent_id == run_id, Run.kind.in_(kinds), live, Run.id.not_in(keep))
    parts = select(Run).where(mine).order_by(Run.id).with_for_update()
    for part in session.scalars(parts.execution_options(populate_existing=True)).all():
        if part.state == RunState.queued:
            _Ending(session, part, and_(Run.id == part.id, queued()), at).cancel()
        elif part.cancel_requested_at is None:
            session.execute(_update(Run.id == part.id).values(cancel_requested_at=at))
            add_event(session, part.id, part.attempt, CANCEL_REQUESTED, at, part.state, "Cancel requested")


def _update(*where: ColumnElement[bool]) -> Any:
    return update(Run).where(*where).execution_options(synchronize_session=False)
