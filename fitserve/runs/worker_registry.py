"""Rows of live workers, for display and estimates only: runs are never assigned by them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine, delete, func, or_, select, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.tables import Worker

WORKER_TIMEOUT = 60.0  # seconds after its last heartbeat until a worker counts as dead


def register(engine: Engine, worker_id: str, hostname: str, pid: int) -> None:
    """Add a worker that has started."""
    with db.transaction(engine) as session:
        at = db.now(session)
        session.merge(Worker(id=worker_id, hostname=hostname, pid=pid, run_id=None, started_at=at, heartbeat_at=at))


def report_alive(engine: Engine, worker_id: str, run_id: str | None) -> None:
    """Record that a worker is alive, and its run (None if it is idle)."""
    with db.transaction(engine) as session:
        values = {"heartbeat_at": db.now(session), "run_id": run_id}
        session.execute(update(Worker).where(Worker.id == worker_id).values(**values))


def deregister(engine: Engine, worker_id: str) -> None:
    """Remove a worker that stops."""
    with db.transaction(engine) as session:
        session.execute(delete(Worker).where(Worker.id == worker_id))


def prune(engine: Engine) -> list[str]:
    """Remove workers without a heartbeat for ten times WORKER_TIMEOUT. Return their ids."""
    with db.transaction(engine) as session:
        dead = Worker.heartbeat_at < db.now(session) - timedelta(seconds=10 * WORKER_TIMEOUT)
        ids = list(session.scalars(select(Worker.id).where(dead)))
        session.execute(delete(Worker).where(Worker.id.in_(ids)))
        return ids


def count_others(session: Session, hostname: str, pid: int) -> int:
    """Return how many live workers belong to other processes than this one."""
    alive = Worker.heartbeat_at > db.now(session) - timedelta(seconds=WORKER_TIMEOUT)
    other = or_(Worker.hostname != hostname, Worker.pid != pid)
    return session.scalar(select(func.count()).where(alive, other)) or 0


def count_idle(session: Session, excluding: str) -> int:
    """Return how many live workers have no run, not counting `excluding`."""
    alive = Worker.heartbeat_at > db.now(session) - timedelta(seconds=WORKER_TIMEOUT)
    return session.scalar(select(func.count()).where(alive, Worker.run_id.is_(None), Worker.id != excluding)) or 0


def idle_hosts(session: Session) -> list[str]:
    """Return the hosts that have a live worker without a run."""
    alive = Worker.heartbeat_at > db.now(session) - timedelta(seconds=WORKER_TIMEOUT)
    return sorted(set(session.scalars(select(Worker.hostname).where(alive, Worker.run_id.is_(None)))))
