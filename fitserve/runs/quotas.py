"""Quotas of owners and keys on runs and training time, counted in the database so that all processes agree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.errors import TooMany
from fitserve.settings import Limits
from fitserve.states import INTERNAL_KINDS, RunState
from fitserve.tables import Key, Run
from fitserve.wire.admin import Quotas

_DAY = timedelta(hours=24)


def lock_owner(session: Session, owner: str) -> None:
    """Serialise the checks of an owner's quotas."""
    db.serialise(session, "runs", owner)


def check(session: Session, owner: str, key_id: str | None, quotas: Quotas, limits: Limits) -> None:
    """Raise TooMany (429), naming the quota, if another queued run would exceed it."""
    _check_queued(session, Run.owner == owner, limits.queued_runs, "You have")
    if key_id is None:
        return
    if quotas.queued_runs is not None:
        _check_queued(session, Run.key_id == key_id, quotas.queued_runs, "This key has")
    own_limit = quotas.training_seconds_per_day
    limit = own_limit if own_limit is not None else limits.training_seconds_per_day or None  # 0 sets no limit
    if limit is not None:
        _check_trained(session, key_id, limit)


def _check_queued(session: Session, whose: ColumnElement[bool], limit: int, subject: str) -> None:
    count = session.scalar(select(func.count()).where(whose, Run.state == RunState.queued)) or 0
    if count >= limit:  # rare, so the costlier count without trials (which nobody submitted) is made only here
        whole = select(func.count()).where(whose, Run.state == RunState.queued, Run.kind.not_in(INTERNAL_KINDS))
        count = session.scalar(whole) or 0
    if count >= limit:
        raise TooMany(
            f"{subject} {count} queued runs.",
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
    """Return the seconds that a key's runs trained in the 24 hours before `at`, and when the oldest of them drops out.

    Only each run's last attempt counts.
    """
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


def exhausted_keys(session: Session) -> Sequence[str]:
    """Return the keys that have reached their own limit of running runs."""
    limited = session.execute(select(Key.id, Key.quotas).where(Key.quotas.is_not(None)))
    quotas = {key_id: Quotas.model_validate(values) for key_id, values in limited}
    running_runs = {key_id: own.running_runs for key_id, own in quotas.items() if own.running_runs is not None}
    if not running_runs:
        return []
    running = select(Run.key_id, func.count()).where(Run.state == RunState.running).group_by(Run.key_id)
    counts = {row[0]: int(row[1]) for row in session.execute(running)}
    return [key_id for key_id, limit in running_runs.items() if counts.get(key_id, 0) >= limit]
