"""Sessions of signed-in browsers: what a cookie holds instead of a key, `id.secret` in the same form.

A session has the rights of the key that signed in, for as long as that key is live, and ends with the sign-out.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.api_keys import Identity, digest, identity, is_live
from fitserve.ids import new_id
from fitserve.tables import BrowserSession, Key

PREFIX = "session_"
MAX_SESSIONS = 100  # of one key; the oldest end


def begin(session: Session, key_id: str, seconds: float) -> str:
    """Begin a session with the rights of a key, and return its token. Deletes expired ones."""
    at = db.now(session)
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= at))
    others = select(BrowserSession.id).where(BrowserSession.key_id == key_id).order_by(BrowserSession.id.desc())
    surplus = list(session.scalars(others.offset(MAX_SESSIONS - 1)))
    session.execute(delete(BrowserSession).where(BrowserSession.id.in_(surplus)))
    id, secret = new_id("session"), secrets.token_urlsafe(32)
    session.add(
        BrowserSession(
            id=id,
            secret_sha256=digest(secret),
            key_id=key_id,
            created_at=at,
            expires_at=at + timedelta(seconds=seconds),
        )
    )
    session.flush()
    return f"{id}.{secret}"


def end(session: Session, token: str) -> None:
    """End the session of a token; of another token, nothing."""
    id, _, secret = token.partition(".")
    mine = (BrowserSession.id == id, BrowserSession.secret_sha256 == digest(secret))
    session.execute(delete(BrowserSession).where(*mine))


def live(session: Session, id: str | None = None) -> Iterator[tuple[BrowserSession, Identity]]:
    """Yield the live sessions, or one of them, with their identities: that of the key, until the session ends."""
    at = db.now(session)
    query = select(BrowserSession, Key).join(Key, Key.id == BrowserSession.key_id)
    query = query.where(BrowserSession.expires_at > at, Key.revoked_at.is_(None))
    for row, key in session.execute(query if id is None else query.where(BrowserSession.id == id)):
        if is_live(key, at):
            until = min(row.expires_at, key.expires_at) if key.expires_at else row.expires_at
            yield row, replace(identity(key), expires_at=until)
