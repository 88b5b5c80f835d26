"""T10: the row is the outbox. Queued runs of which no worker may have heard are published again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Engine, or_, select, update

from fitserve import db
from fitserve.states import RunState
from fitserve.tables import Run


def undelivered(engine: Engine, older_than: float, limit: int) -> list[str]:
    """Queued runs never published, or not for `older_than` seconds; those that come first in the queue first."""
    with db.reading(engine) as session:
        before = db.now(session) - timedelta(seconds=older_than)
        late = or_(Run.dispatched_at.is_(None), Run.dispatched_at < before)
        order = (Run.priority.desc(), Run.created_at, Run.id)
        query = select(Run.id).where(Run.state == RunState.queued, late).order_by(*order).limit(limit)
        return list(session.scalars(query))


def published(engine: Engine, ids: Sequence[str]) -> None:
    """Notes that these have been published now."""
    with db.transaction(engine) as session:
        session.execute(
            update(Run)
            .where(Run.id.in_(ids), Run.state == RunState.queued)
            .values(dispatched_at=db.now(session))
            .execution_options(synchronize_session=False)
        )
