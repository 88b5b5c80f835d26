"""Gangs: several workers that train one run's network together, a leader (which holds the run) and helpers.

A helper's part is itself a run, of kind `helper`, and follows the same rules: it is claimed under its own lease, a lost
worker is noticed when that lease expires, and whatever ends the run ends its parts. The leader offers parts, collects
the addresses of helpers that join, and begins. A helper writes no results: all writes for the run are fenced by the
leader's lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.runs.create import NewRun, add_run
from fitserve.runs.finish import end_parts, lock_run
from fitserve.runs.lease import YIELDING_RUNS, Lease
from fitserve.states import TERMINAL, WHOLE_TRAININGS, RunKind, RunState
from fitserve.tables import GangMember, Run


class GangOver(Exception):
    """The leader is gone, or began without this helper."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A helper that has joined: its part's run id, its attempt, and its address."""

    run_id: str
    attempt: int
    hostname: str
    address: str


def offer(engine: Engine, lease: Lease, count: int, release: str) -> list[str]:
    """Queue `count` helpers' parts for workers of this release, and end the parts offered before.

    Returns their runs' ids. Raises LeaseLost.
    """
    with db.transaction(engine) as session:
        run = lock_run(session, lease)
        end_parts(session, run.id, (RunKind.helper,), db.now(session))
        return _add_parts(session, run, lease, count, release)


def offer_again(engine: Engine, lease: Lease, offered: Sequence[str], count: int, release: str) -> list[str]:
    """Replace offered parts that have ended, so that there are `count`. Return the ids of all parts still open.

    A worker that cannot help (it has no free port, for example) releases its part. Raises LeaseLost.
    """
    with db.transaction(engine) as session:
        run = lock_run(session, lease)
        left = list(session.scalars(select(Run.id).where(Run.id.in_(offered), Run.state.not_in(TERMINAL))))
        return sorted(left) + _add_parts(session, run, lease, count - len(left), release)


def _add_parts(session: Session, run: Run, lease: Lease, count: int, release: str) -> list[str]:
    if run.cancel_requested_at is not None:
        return []
    at, ids = db.now(session), sorted(new_id("run") for _ in range(count))
    for run_id in ids:
        new_run = NewRun(
            owner=run.owner,
            dataset_id=run.dataset_id,
            spec={"run": run.id, "attempt": lease.attempt, "release": release},
            resolved=run.resolved,
            estimates=run.estimates,
            kind=RunKind.helper,
            priority=run.priority,
            parent_id=run.id,
            key_id=run.key_id,
        )
        add_run(session, new_run, run_id, at)
    return ids


def any_unclaimed(session: Session, offered: Sequence[str]) -> bool:
    """Return whether any of these parts has not been claimed."""
    query = select(Run.id).where(Run.id.in_(offered), Run.state == RunState.queued)
    return session.scalar(query.limit(1)) is not None


def find_joined(session: Session, offered: Sequence[str]) -> list[Helper]:
    """Return the helpers that have joined under the offered parts and still hold their leases."""
    columns = (GangMember.run_id, GangMember.attempt, GangMember.hostname, GangMember.address)
    query = select(*columns).join(Run, Run.id == GangMember.run_id).where(Run.id.in_(offered), *_alive(session))
    rows = session.execute(query.order_by(Run.id))
    return [Helper(run_id, attempt, host, address) for run_id, attempt, host, address in rows if address is not None]


def begin(engine: Engine, lease: Lease, helpers: Sequence[Helper], address: str) -> list[str]:
    """Assign ranks to these helpers, and end all other parts. Return all addresses by rank. Raises LeaseLost."""
    addresses = [address, *(helper.address for helper in helpers)]
    with db.transaction(engine) as session:
        run = lock_run(session, lease)
        end_parts(session, run.id, (RunKind.helper,), db.now(session), keep=[helper.run_id for helper in helpers])
        session.execute(delete(GangMember).where(GangMember.run_id == run.id))
        for rank, helper in enumerate(helpers, 1):
            session.execute(
                update(GangMember)
                .where(GangMember.run_id == helper.run_id, GangMember.attempt == helper.attempt)
                .values(rank=rank, addresses=addresses)
            )
    return addresses


def hold_their_parts(engine: Engine, helpers: Sequence[Helper]) -> bool:
    """Return whether every helper still holds its part or has completed it."""
    attempts = {helper.run_id: helper.attempt for helper in helpers}
    with db.reading(engine) as session:
        alive = dict(session.execute(select(Run.id, Run.attempt).where(Run.id.in_(attempts), *_alive(session))).all())
        done = set(session.scalars(select(Run.id).where(Run.id.in_(attempts), Run.state == RunState.succeeded)))
    return all(run_id in done or alive.get(run_id) == attempt for run_id, attempt in attempts.items())


def yield_to_other_runs(engine: Engine, lease: Lease, hostname: str) -> None:
    """Move a run that is about to be released behind all other waiting whole runs. Raises LeaseLost."""
    with db.transaction(engine) as session:
        run = lock_run(session, lease)
        end_parts(session, run.id, (RunKind.helper,), db.now(session))
        session.merge(GangMember(run_id=run.id, gang_id=run.id, attempt=lease.attempt, hostname=hostname))


def others_wait(engine: Engine, run_id: str, running_limit: int) -> bool:
    """Return whether a leader that waits for helpers should yield.

    It should if it could train another whole run, or help an older one: of two leaders that wait for each other's
    worker, one has to give in.
    """
    with db.reading(engine) as session:
        running = select(Run.owner).where(Run.state == RunState.running)
        full = running.group_by(Run.owner).having(func.count() >= running_limit)
        whole = and_(Run.kind.in_(WHOLE_TRAININGS), Run.id.not_in(YIELDING_RUNS))
        older = and_(Run.kind == RunKind.helper, Run.parent_id < run_id)
        query = select(Run.id).where(Run.state == RunState.queued, or_(whole, older), Run.owner.not_in(full))
        return session.scalar(query.limit(1)) is not None


def join(engine: Engine, lease: Lease, hostname: str, address: str) -> None:
    """Announce a helper's address. Raises LeaseLost."""
    with db.transaction(engine) as session:
        run = lock_run(session, lease)
        values = {"gang_id": run.parent_id, "attempt": lease.attempt, "hostname": hostname, "address": address}
        session.merge(GangMember(run_id=run.id, rank=None, addresses=None, **values))


def find_rank(engine: Engine, lease: Lease, spec: Mapping[str, Any]) -> tuple[int, list[str]] | None:
    """Return a helper's rank and all addresses; None while the leader waits for others. Raises GangOver."""
    with db.reading(engine) as session:
        leads = (Run.id == spec["run"], Run.attempt == spec["attempt"])
        if session.scalar(select(Run.id).where(*leads, *_alive(session))) is None:
            raise GangOver
        member = session.get(GangMember, lease.run_id)
    if member is None or member.attempt != lease.attempt:
        raise GangOver
    return None if member.rank is None else (member.rank, list(member.addresses or ()))


def _alive(session: Session) -> tuple[ColumnElement[bool], ...]:
    """Return the SQL conditions that a run's holder is alive."""
    return Run.state == RunState.running, Run.lease_expires_at > db.now(session), Run.cancel_requested_at.is_(None)
