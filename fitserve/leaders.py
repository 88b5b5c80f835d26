"""Leases for work that only one process at a time may do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.tables import Leader


def lead(session: Session, name: str, holder: str, seconds: float) -> bool:
    """Take or renew a lease by the database's clock. Return whether this process holds it now."""
    at = db.now(session)
    until = at + timedelta(seconds=seconds)
    mine: Any = session.execute(
        update(Leader)
        .where(Leader.name == name, or_(Leader.holder == holder, Leader.expires_at < at))
        .values(holder=holder, expires_at=until)
    )
    if mine.rowcount == 1:
        return True
    row = {"name": name, "holder": holder, "expires_at": until}
    return bool(db.insert_new(session, Leader, [row], returning=(Leader.name,)))
