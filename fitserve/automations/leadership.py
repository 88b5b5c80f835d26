"""Which process leads, and whether it has anything to do: all that is needed while there are no automations."""

from __future__ import annotations

from sqlalchemy import Engine, exists, func, or_, select
from sqlalchemy.orm import Session

from fitserve import db, leaders
from fitserve.tables import Automation, AutomationFiring

LEASE_SECONDS = 30.0
LEADER = "automations"
LIVE = ("queued", "open", "training")  # states of a firing that is not over


def lead(engine: Engine, holder: str) -> bool:
    """Take or renew the lease. Return whether this process leads."""
    with db.transaction(engine) as session:
        return leaders.lead(session, LEADER, holder, LEASE_SECONDS)


def has_work(engine: Engine) -> bool:
    """Return whether an automation is enabled or a firing is not over."""
    enabled = exists().where(Automation.enabled)
    live = exists().where(AutomationFiring.state.in_(LIVE))
    with db.reading(engine) as session:
        return bool(session.scalar(select(or_(enabled, live))))


def count_paused(session: Session) -> int:
    """Return how many automations are paused after repeated failures."""
    paused = select(func.count()).where(Automation.enabled.is_(False), Automation.paused_reason.is_not(None))
    return session.scalar(paused) or 0
