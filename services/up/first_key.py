"""The first key: created at the first start, kept in a file for this machine, signed in with by a one-time link."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fitserve import api_keys, browser_sessions, db
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from fitserve.tables import Key
from services.secrets import write_secret

FIRST_KEY = "first-key"  # a file under home, mode 0600: the command line on this machine signs in with it


@dataclass(frozen=True)
class FirstKey:
    """The key in the file, which is live."""

    token: str
    path: Path
    unused: bool  # nobody has used it yet: perhaps nobody has seen it


def prepare(settings: Settings) -> FirstKey | None:
    """Create a random admin key at the first start. Return the file's live key; None without one, or with keys off."""
    if not settings.auth:
        return None
    path = settings.home / FIRST_KEY
    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.transaction(engine) as session:
            if not api_keys.listing(session):
                _, token = api_keys.create(session, owner="admin", name="first", scopes=["admin"])
                # Before the commit, because a key whose token nobody has is useless.
                write_secret(path, f"{token}\n", 0o600)
                return FirstKey(token, path, unused=True)
            try:
                token = path.read_text().strip()
                identity = api_keys.identify(session, token)
            except (OSError, ValueError, FitserveError):
                return None
            key = session.get(Key, identity.key_id)
            return FirstKey(token, path, unused=key is not None and key.last_used_at is None)
    finally:
        engine.dispose()


def one_time_token(settings: Settings, key: FirstKey) -> str:
    """Return a token that signs one browser in with this key, once and soon."""
    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.transaction(engine) as session:
            return browser_sessions.issue_one_time_token(session, api_keys.split_token(key.token)[0])
    finally:
        engine.dispose()
