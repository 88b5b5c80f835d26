"""Letting other owners look at a run."""

from __future__ import annotations

from sqlalchemy import Engine, update

from fitserve import db
from fitserve.runs.queries import own
from fitserve.tables import Run


def share(engine: Engine, run_id: str, shared: bool, owner: str | None) -> Run:
    """Lets every owner read a run, its epochs, events and insight, or no longer. Raises NotFound, Forbidden."""
    with db.transaction(engine) as session:
        run = own(session, run_id, owner)
        session.execute(update(Run).where(Run.id == run.id).values(shared=shared))
        session.refresh(run)
        session.expunge(run)
        return run
