"""Holding a run: claim it (T2), keep it and write down what happens (T3).

Every write of a worker goes through `Lease.holds`, the fence: it names the run, the attempt and the token of
this one acquisition. Where no row changes, the run is no longer ours: `LeaseLost`, and nothing was written.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Engine, and_, func, or_, select, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.blobs import BlobStore, StoredBlob
from fitserve.runs import quotas
from fitserve.runs.blob_references import keep
from fitserve.runs.history import CLAIMED, Report, record_reports, say
from fitserve.states import TRIAL, RunState
from fitserve.tables import Run


class LeaseLost(Exception):
    """The run belongs to somebody else by now, or is over. Kill the trainer; write nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One acquisition of a run: the fence of everything that its holder writes."""

    run_id: str
    attempt: int
    token: str

    def holds(self) -> ColumnElement[bool]:
        """The condition under which this holder may write."""
        return and_(
            Run.id == self.run_id,
            Run.state == RunState.running,
            Run.attempt == self.attempt,
            Run.lease_token == self.token,
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is ours now, and the row as it was claimed."""

    lease: Lease
    run: Run
    waited: float  # seconds from creation to this claim


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A durable checkpoint, and the epoch after which it was taken."""

    blob: StoredBlob
    epoch: int


def queued() -> ColumnElement[bool]:
    """The condition of T2's compare-and-set."""
    return Run.state == RunState.queued


def claim(
    engine: Engine,
    worker: str,
    *,
    lease_seconds: float,
    running_limit: int,
    kinds: Sequence[str] = ("training", "reproduction", TRIAL),
) -> Claim | None:
    """T2: takes the best queued run (highest priority, then oldest), or returns None.

    Which run a wake-up message names plays no part: were it to be taken first, priorities would not hold.
    A trial of a run that another worker holds comes after all whole runs: it is for workers with nothing else to do.
    Owners who have `running_limit` runs running are passed over, and keys that have as many as their own quota says.
    """
    with db.transaction(engine) as session:
        full = list(
            session.scalars(
                select(Run.owner)
                .where(Run.state == RunState.running)
                .group_by(Run.owner)
                .having(func.count() >= running_limit)
            )
        )
        full_keys = quotas.keys_without_room(session)
        run = None
        for group in ([kind for kind in kinds if kind != TRIAL], [kind for kind in kinds if kind == TRIAL]):
            if run is None and group:
                run = _best_queued(session, full, full_keys, group)
        if run is None or not _below_limit(session, run, running_limit):
            return None
        at = db.now(session)
        lease = Lease(run.id, run.attempt + 1, secrets.token_hex(16))
        changed = session.execute(
            update(Run)
            .where(Run.id == run.id, queued())
            .values(
                state=RunState.running,
                attempt=lease.attempt,
                lease_token=lease.token,
                lease_expires_at=at + timedelta(seconds=lease_seconds),
                worker=worker,
                started_at=at,
                progress_at=at,
            )
            .execution_options(synchronize_session=False)
        )
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            return None
        say(session, run.id, lease.attempt, CLAIMED, at, RunState.running, "Started", data={"attempt": lease.attempt})
        session.refresh(run)
        session.expunge(run)
        return Claim(lease, run, (at - run.created_at).total_seconds())


def _best_queued(session: Session, full: Sequence[str], full_keys: Sequence[str], kinds: Sequence[str]) -> Run | None:
    query = select(Run).where(queued()).order_by(Run.priority.desc(), Run.created_at, Run.id).limit(1)
    if full:
        query = query.where(Run.owner.not_in(full))
    if full_keys:
        query = query.where(or_(Run.key_id.is_(None), Run.key_id.not_in(full_keys)))
    query = query.where(Run.kind.in_(kinds))
    return session.scalars(query.with_for_update(skip_locked=True)).first()


def _below_limit(session: Session, run: Run, limit: int) -> bool:
    """Counts once more under the owner's lock: two workers may have seen the last free place at once."""
    if session.get_bind().dialect.name != "postgresql":
        return True  # the transaction has the one write lock already
    quotas.lock_owner(session, run.owner)
    count = session.scalar(select(func.count()).where(Run.owner == run.owner, Run.state == RunState.running))
    return (count or 0) < limit and run.key_id not in quotas.keys_without_room(session)


def beat(
    engine: Engine,
    lease: Lease,
    *,
    lease_seconds: float,
    reports: Sequence[Report] = (),
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    blobs: BlobStore | None = None,
) -> tuple[datetime | None, int]:
    """T3: keeps the lease and writes reports and a checkpoint, all or nothing.

    Returns when a cancel was asked for (or None), and the number of epochs that were new. Raises LeaseLost.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        values: dict[str, object] = {"lease_expires_at": at + timedelta(seconds=lease_seconds)}
        if progress or reports or checkpoint:
            values["progress_at"] = at
        if checkpoint is not None and blobs is not None:
            keep(session, blobs, {"checkpoint": checkpoint.blob}, at)
            values |= {"checkpoint": checkpoint.blob.sha256, "checkpoint_epoch": checkpoint.epoch}
        row = session.execute(
            update(Run)
            .where(lease.holds())
            .values(**values)
            .returning(Run.cancel_requested_at)
            .execution_options(synchronize_session=False)
        ).first()
        if row is None:
            raise LeaseLost(lease.run_id)
        new = record_reports(session, lease.run_id, lease.attempt, reports, at)
        requested: datetime | None = row[0]
        return requested, new


def cancel_requested(engine: Engine, lease: Lease) -> bool:
    """Whether a cancel was asked for: a cheap look between two heartbeats. Raises LeaseLost."""
    with db.reading(engine) as session:
        row = session.execute(select(Run.cancel_requested_at).where(lease.holds())).first()
    if row is None:
        raise LeaseLost(lease.run_id)
    return row[0] is not None
