"""Sessions of signed-in browsers. The cookie holds a session token instead of a key, in the same form `id.secret`.

A session has the rights of the key that signed in, for as long as that key is live, and ends with the sign-out. An
offer is a one-time token in a link, valid for a short time, that begins one session. It saves people from copying a
key, and is worthless afterwards in a log or a browser history.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.api_keys import Identity, digest, identity, is_live
from fitserve.errors import Unauthenticated
from fitserve.ids import new_id
from fitserve.tables import BrowserSession, Key

PREFIX = "session_"
ONE_TIME_PREFIX = "once_"
ONE_TIME_SECONDS = 600.0
_OFFER_ROW = "once_"  # prefix of an offer's row id, which is derived from its secret
MAX_SESSIONS = 100  # sessions of one key; beyond that, the oldest end
_IS_SESSION = BrowserSession.id.startswith(PREFIX, autoescape=True)


def begin(session: Session, key_id: str, seconds: float) -> str:
    """Begin a session with the rights of a key, and return its token. Deletes expired ones."""
    db.serialise(session, "sessions", key_id)
    at = _now_without_expired(session)
    others = select(BrowserSession.id).where(BrowserSession.key_id == key_id, _IS_SESSION)
    others = others.order_by(BrowserSession.id.desc())
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


def issue_one_time_token(session: Session, key_id: str, seconds: float = ONE_TIME_SECONDS) -> str:
    """Return a token that `redeem` accepts once, within this time."""
    at = _now_without_expired(session)
    secret = secrets.token_urlsafe(16)  # 128 random bits: short enough for a link in a terminal
    row = BrowserSession(
        id=_offer_id(secret),
        secret_sha256=digest(secret),
        key_id=key_id,
        created_at=at,
        expires_at=at + timedelta(seconds=seconds),
    )
    session.add(row)
    session.flush()
    return f"{ONE_TIME_PREFIX}{secret}"


def redeem(session: Session, token: str) -> Identity:
    """Exchange a one-time token for its key's identity. Raises Unauthenticated if it was used or has expired."""
    secret = token.removeprefix(ONE_TIME_PREFIX)
    mine = (BrowserSession.id == _offer_id(secret), BrowserSession.secret_sha256 == digest(secret))
    at = db.now(session)
    # The DELETE decides between two requests that redeem it at once: one of them deletes nothing.
    query = delete(BrowserSession).where(*mine, BrowserSession.expires_at > at).returning(BrowserSession.key_id)
    key_id = session.scalar(query)
    key = session.get(Key, key_id) if key_id is not None else None
    if key is None or not is_live(key, at):
        raise Unauthenticated(
            "This link has been used already, or has expired.",
            fix="Sign in with the API key; on the server's machine, it is in the file first-key of its folder.",
        )
    return identity(key)


def _offer_id(secret: str) -> str:
    return f"{_OFFER_ROW}{digest(f'offer {secret}')[:32]}"


def _now_without_expired(session: Session) -> datetime:
    """Delete what has expired, and return the database's time."""
    at = db.now(session)
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= at))
    return at


def end(session: Session, token: str) -> None:
    """End the session of a token, if there is one."""
    id, _, secret = token.partition(".")
    mine = (BrowserSession.id == id, BrowserSession.secret_sha256 == digest(secret))
    session.execute(delete(BrowserSession).where(*mine))


def live(session: Session, id: str | None = None) -> Iterator[tuple[BrowserSession, Identity]]:
    """Yield live sessions, or only the named one, each with the identity of the key that signed in."""
    at = db.now(session)
    query = select(BrowserSession, Key).join(Key, Key.id == BrowserSession.key_id)
    query = query.where(BrowserSession.expires_at > at, Key.revoked_at.is_(None), _IS_SESSION)
    for row, key in session.execute(query if id is None else query.where(BrowserSession.id == id)):
        if is_live(key, at):
            until = min(row.expires_at, key.expires_at) if key.expires_at else row.expires_at
            yield row, replace(identity(key), expires_at=until)
