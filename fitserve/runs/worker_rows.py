"""Rows of the workers that live: for people and for estimates. No run is given to one of them by these."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.runs.queries import WORKER_LIVES
from fitserve.tables import Worker


def appear(engine: Engine, worker_id: str, hostname: str, pid: int) -> None:
    """A worker has started."""
    with db.transaction(engine) as session:
        at = db.now(session)
        session.merge(Worker(id=worker_id, hostname=hostname, pid=pid, run_id=None, started_at=at, heartbeat_at=at))


def sign(engine: Engine, worker_id: str, run_id: str | None) -> None:
    """A worker lives, with that run or idle."""
    with db.transaction(engine) as session:
        values = {"heartbeat_at": db.now(session), "run_id": run_id}
        session.execute(update(Worker).where(Worker.id == worker_id).values(**values))


def idle(session: Session, but: str) -> int:
    """How many live and have no run, `but` not counted."""
    alive = Worker.heartbeat_at > db.now(session) - timedelta(seconds=WORKER_LIVES)
    return session.scalar(select(func.count()).where(alive, Worker.run_id.is_(None), Worker.id != but)) or 0


def leave(engine: Engine, worker_id: str) -> None:
    """A worker has stopped."""
    with db.transaction(engine) as session:
        session.execute(delete(Worker).where(Worker.id == worker_id))


def bury(engine: Engine) -> list[str]:
    """Forgets workers that gave no sign for long (ten times WORKER_LIVES)."""
    with db.transaction(engine) as session:
        silent = Worker.heartbeat_at < db.now(session) - timedelta(seconds=10 * WORKER_LIVES)
        ids = list(session.scalars(select(Worker.id).where(silent)))
        session.execute(delete(Worker).where(Worker.id.in_(ids)))
        return ids
