"""The control API's key ring: the database's word, remembered for a moment."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError

from fitserve import api_keys, db
from fitserve.api_keys import ANONYMOUS, Identity
from fitserve.errors import Conflict
from fitserve.settings import Settings
from fitserve.tables import Key
from services.shell.auth import missing_key

_REMEMBERED_SECONDS = 2.0  # a revoked key must be refused within 5 s
_MOST_REMEMBERED = 10_000
_LAST_USED_STEP = timedelta(minutes=1)  # a write for each request would be a waste


class KeyRing:
    """Turns tokens into identities."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.auth = settings.auth
        self.engine = engine
        self._remembered: dict[str, tuple[float, Identity]] = {}
        self._lock = threading.Lock()

    def identify(self, token: str | None) -> Identity:
        """Whose token this is. Raises Unauthenticated."""
        if not self.auth:
            return ANONYMOUS
        if token is None:
            raise missing_key()
        fingerprint = api_keys.digest(token)
        known = self._remembered.get(fingerprint)
        if known and known[0] > time.monotonic():
            return known[1]
        with db.reading(self.engine) as session:
            identity = api_keys.identify(session, token)
        self._remember(fingerprint, identity)
        self._note_use(identity.key_id)
        return identity

    def _remember(self, fingerprint: str, identity: Identity) -> None:
        with self._lock:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[fingerprint] = (time.monotonic() + _REMEMBERED_SECONDS, identity)

    def forget(self) -> None:
        """After a key changed here."""
        with self._lock:
            self._remembered.clear()

    def _note_use(self, key_id: str) -> None:
        with db.reading(self.engine) as session:
            at = db.now(session)
            last = session.scalar(select(Key.last_used_at).where(Key.id == key_id))
        if last is None or at - last > _LAST_USED_STEP:
            with db.transaction(self.engine) as session:
                key = session.get(Key, key_id)
                if key:
                    key.last_used_at = at


def has_live_key(engine: Engine) -> bool:
    """Whether anybody could sign in."""
    with db.reading(engine) as session:
        at = db.now(session)
        query = select(func.count()).select_from(Key).where(Key.revoked_at.is_(None))
        return bool(session.scalar(query.where((Key.expires_at.is_(None)) | (Key.expires_at > at))))


def ensure_root_key(settings: Settings, engine: Engine) -> None:
    """Makes the admin key that FITSERVE_ROOT_KEY names, unless it is there."""
    if settings.root_key is None:
        return
    token = settings.root_key.get_secret_value().strip()
    key_id, _ = api_keys.split_token(token)
    try:
        with db.transaction(engine) as session:
            if session.get(Key, key_id) is None:
                api_keys.create(
                    session, owner="admin", name=f"root-{key_id}"[:63].lower(), scopes=["admin"], token=token
                )
    except (IntegrityError, Conflict):
        with db.reading(engine) as session:  # another API that started at the same moment has made it
            if session.get(Key, key_id) is None:
                raise
