"""Hold a run: claim it (T2), renew the lease and record reports (T3).

Every write of a worker has the condition `Lease.holds` as a fence: run, attempt and token of this acquisition. If no
row matches, the run is no longer ours: `LeaseLost` is raised and nothing is written.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Engine, and_, func, or_, select, true, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.blobs import BlobStore, StoredBlob
from fitserve.runs import quotas
from fitserve.runs.blob_references import add_references
from fitserve.runs.history import CLAIMED, Report, add_event, record_reports
from fitserve.states import INTERNAL_KINDS, WHOLE_TRAININGS, RunKind, RunState
from fitserve.tables import GangMember, Run
from fitserve.tables.json_columns import where_readable

YIELDING_RUNS = select(GangMember.run_id).where(GangMember.run_id == GangMember.gang_id)


class LeaseLost(Exception):
    """Another worker holds the run now, or it is over. Kill the trainer; write nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One acquisition of a run, which fences all of its holder's writes."""

    run_id: str
    attempt: int
    token: str

    def holds(self) -> ColumnElement[bool]:
        """Return the condition under which this holder may write."""
        return and_(
            Run.id == self.run_id,
            Run.state == RunState.running,
            Run.attempt == self.attempt,
            Run.lease_token == self.token,
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed run: its lease, and its row as it was claimed."""

    lease: Lease
    run: Run
    waited: float  # seconds between creation and this claim


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A durable checkpoint, and the epoch after which it was taken."""

    blob: StoredBlob
    epoch: int


def queued() -> ColumnElement[bool]:
    """Return the SQL condition for T2's compare-and-set."""
    return Run.state == RunState.queued


def claim(
    engine: Engine,
    worker: str,
    *,
    lease_seconds: float,
    running_limit: int,
    kinds: Sequence[str] = (*WHOLE_TRAININGS, RunKind.helper, RunKind.trial),
    release: str | None = None,
) -> Claim | None:
    """T2: claim the best queued run (highest priority, then oldest), or return None.

    The run in a wake-up message gets no preference, or priorities would not hold. Trials and parts of runs that other
    workers hold come after all whole runs, and so do runs that have yielded while waiting for helpers. With `release`,
    a helper's part is claimed only if its leader has the same release, because a deployment may be halfway through an
    upgrade. Runs are skipped if their owner has `running_limit` runs running, or if their key's quota is used up.
    """
    with db.transaction(engine) as session:
        running = select(Run.owner).where(Run.state == RunState.running).group_by(Run.owner)
        full_owners = list(session.scalars(running.having(func.count() >= running_limit)))
        full_keys = quotas.exhausted_keys(session)
        run = None
        for group, where in _groups_in_order(kinds, release):
            if run is None and group:
                run = _best_queued(session, full_owners, full_keys, group, where)
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
        data = {"attempt": lease.attempt}
        add_event(session, run.id, lease.attempt, CLAIMED, at, RunState.running, "Started", data=data)
        session.refresh(run)
        session.expunge(run)
        return Claim(lease, run, (at - run.created_at).total_seconds())


def _groups_in_order(kinds: Sequence[str], release: str | None) -> list[tuple[Sequence[str], ColumnElement[bool]]]:
    """Return pairs (kinds of runs, condition) in the order in which they are claimed."""
    whole = [kind for kind in kinds if kind not in INTERNAL_KINDS]
    helpers = [kind for kind in kinds if kind == RunKind.helper]
    parts = [kind for kind in kinds if kind in INTERNAL_KINDS and kind != RunKind.helper]
    same_release = true() if release is None else where_readable(Run.spec, Run.spec["release"].as_string()) == release
    return [
        (whole, Run.id.not_in(YIELDING_RUNS)),
        (helpers, same_release),  # a gang waits for them
        (whole, Run.id.in_(YIELDING_RUNS)),  # runs that have yielded: no worker was free to help
        (parts, true()),  # last, because the worker that holds the run does any that are left
    ]


def _best_queued(
    session: Session,
    full_owners: Sequence[str],
    full_keys: Sequence[str],
    kinds: Sequence[str],
    where: ColumnElement[bool],
) -> Run | None:
    query = select(Run).where(queued()).order_by(Run.priority.desc(), Run.created_at, Run.id).limit(1)
    if full_owners:
        query = query.where(Run.owner.not_in(full_owners))
    if full_keys:
        query = query.where(or_(Run.key_id.is_(None), Run.key_id.not_in(full_keys)))
    query = query.where(Run.kind.in_(kinds), where)
    return session.scalars(query.with_for_update(skip_locked=True)).first()


def _below_limit(session: Session, run: Run, limit: int) -> bool:
    """Count again under the owner's lock, because two workers may have seen the last free slot at the same time."""
    if session.get_bind().dialect.name != "postgresql":
        return True  # the transaction already holds the only write lock
    quotas.lock_owner(session, run.owner)
    count = session.scalar(select(func.count()).where(Run.owner == run.owner, Run.state == RunState.running))
    return (count or 0) < limit and run.key_id not in quotas.exhausted_keys(session)


def renew(
    engine: Engine,
    lease: Lease,
    *,
    lease_seconds: float,
    reports: Sequence[Report] = (),
    progress: bool = False,
    checkpoint: StoredCheckpoint | None = None,
    blobs: BlobStore | None = None,
) -> tuple[datetime | None, int]:
    """T3: renew the lease and record reports and a checkpoint, all or nothing.

    Returns when a cancel was requested (or None), and the number of new epochs. Raises LeaseLost.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        values: dict[str, object] = {"lease_expires_at": at + timedelta(seconds=lease_seconds)}
        if progress or reports or checkpoint:
            values["progress_at"] = at
        if checkpoint is not None and blobs is not None:
            add_references(session, blobs, {"checkpoint": checkpoint.blob}, at)
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
    """Return whether a cancel was requested: a cheap check between two heartbeats. Raises LeaseLost."""
    with db.reading(engine) as session:
        row = session.execute(select(Run.cancel_requested_at).where(lease.holds())).first()
    if row is None:
        raise LeaseLost(lease.run_id)
    return row[0] is not None
