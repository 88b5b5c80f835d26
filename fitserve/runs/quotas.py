"""What one owner, and one key, may have queued, running and trained. Counted in the database: every process agrees."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select, text
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.errors import TooMany
from fitserve.settings import Limits
from fitserve.states import TRIAL, RunState
from fitserve.tables import Key, Run
from fitserve.wire.admin import Quotas

_DAY = timedelta(hours=24)


def lock_owner(session: Session, owner: str) -> None:
    """Two runs for the last place in a quota: one after the other. SQLite's transaction has the one write lock."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext('runs:' || :owner))"), {"owner": owner})


def check(session: Session, owner: str, key_id: str | None, quotas: Quotas, limits: Limits) -> None:
    """Whether one more run may be queued. Raises TooMany (429) naming the quota that is used up."""
    _check_queued(session, Run.owner == owner, limits.queued_runs, "of yours")
    if key_id is None:
        return
    if quotas.queued_runs is not None:
        _check_queued(session, Run.key_id == key_id, quotas.queued_runs, "of this key")
    said = quotas.training_seconds_per_day
    most = said if said is not None else limits.training_seconds_per_day or None
    if most is not None:
        _check_trained(session, key_id, most)


def _check_queued(session: Session, whose: ColumnElement[bool], limit: int, of: str) -> None:
    count = session.scalar(select(func.count()).where(whose, Run.state == RunState.queued)) or 0
    if count >= limit:  # rarely: only then are trials, which nobody submitted, told apart
        whole = select(func.count()).where(whose, Run.state == RunState.queued, Run.kind != TRIAL)
        count = session.scalar(whole) or 0
    if count >= limit:
        raise TooMany(
            f"{count} runs {of} are queued already.",
            received=count,
            expected=f"fewer than {limit} queued runs",
            fix="Wait until some have started, or cancel some.",
            retry_after=30,
        )


def _check_trained(session: Session, key_id: str, limit: int) -> None:
    at = db.now(session)
    used, free_at = trained_seconds(session, key_id, at)
    if used >= limit:
        raise TooMany(
            f"This key's runs have trained for {used:.0f} s in 24 hours.",
            received=round(used, 1),
            expected=f"less than {limit} s in 24 hours",
            fix="Wait until the oldest of them is a day old.",
            retry_after=max(1.0, (free_at - at).total_seconds()),
        )


def trained_seconds(session: Session, key_id: str, at: datetime) -> tuple[float, datetime]:
    """Seconds that a key's runs trained in the 24 hours before `at` (each run's last attempt), and when the
    first of them leaves these 24 hours."""
    since = at - _DAY
    recent = or_(Run.finished_at > since, and_(Run.finished_at.is_(None), Run.state == RunState.running))
    rows = session.execute(
        select(Run.started_at, Run.finished_at).where(Run.key_id == key_id, recent, Run.started_at.is_not(None))
    )
    used, free_at = 0.0, at + timedelta(minutes=1)
    ends: list[datetime] = []
    for started, finished in rows:
        assert started is not None
        end = min(finished or at, at)
        used += max(0.0, (end - max(started, since)).total_seconds())
        ends.append(end)
    return used, min(ends) + _DAY if ends else free_at


def keys_without_room(session: Session) -> Sequence[str]:
    """Keys whose own quota of running runs is used up."""
    limited = session.execute(select(Key.id, Key.quotas).where(Key.quotas.is_not(None)))
    quotas = {key_id: Quotas.model_validate(said) for key_id, said in limited}
    most = {key_id: own.running_runs for key_id, own in quotas.items() if own.running_runs is not None}
    if not most:
        return []
    running = select(Run.key_id, func.count()).where(Run.state == RunState.running).group_by(Run.key_id)
    counts = {row[0]: int(row[1]) for row in session.execute(running)}
    return [key_id for key_id, limit in most.items() if counts.get(key_id, 0) >= limit]
