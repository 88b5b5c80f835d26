"""Authenticate each request's caller by key or session, and enforce rate limits.

Requests and uploads of each key are counted in Redis while it answers, else in this process. The headers are those of
the IETF draft `ratelimit-headers`: `RateLimit-Policy: "requests";q=6000;w=60` and `RateLimit: "requests";r=5999;t=60`.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
from datetime import timedelta
from threading import Lock

from cachetools import TTLCache
from fastapi import Request
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from fitserve import api_keys, browser_sessions, db
from fitserve.api_keys import ANONYMOUS, Identity
from fitserve.errors import TooMany
from fitserve.settings import Settings
from fitserve.tables import Key
from services.http import Caller
from services.http.auth import missing_key
from services.http.instrumentation import route_template

log = logging.getLogger(__name__)
_CACHE_SECONDS = 2.0  # short, because a revoked key must be refused within 5 s
_LAST_USED_STEP = timedelta(minutes=1)  # resolution of `last_used_at`, so that not every request writes to the database
_UPLOADS = frozenset(
    {
        "/datasets/{name}",
        "/datasets",
        "/datasets/{ref}/rows",
        "/datasets/{ref}/refresh",
        "/datasets/samples",
        "/uploads",
    }
)
_REDIS_RETRY_SECONDS = 10.0  # after Redis failed, only this process's counters are used for this time


class Authenticator:
    """Maps tokens to identities; database look-ups are cached for `_CACHE_SECONDS`."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.auth = settings.auth
        self.engine = engine
        # Keyed by digest, so that secrets do not stay in memory.
        self._identities: TTLCache[str, Identity, float] = TTLCache(10_000, ttl=_CACHE_SECONDS)
        self._lock = Lock()

    def identify(self, token: str | None) -> Identity:
        """Return the identity of a token. Raises Unauthenticated."""
        if not self.auth:
            return ANONYMOUS
        if token is None:
            raise missing_key()
        digest = api_keys.digest(token)
        with self._lock:
            identity = self._identities.get(digest)
        if identity is None:
            identity = self._load(token)
            with self._lock:
                self._identities[digest] = identity
        if identity.expired:
            raise api_keys.not_valid()
        return identity

    def forget_all(self) -> None:
        """Drop the cached identities; called when a key has changed in this process."""
        with self._lock:
            self._identities.clear()

    def _load(self, token: str) -> Identity:
        with db.reading(self.engine) as session:
            if token.startswith(browser_sessions.PREFIX):
                identity = self._session_identity(session, token)
            else:
                identity = api_keys.identify(session, token)
            at = db.now(session)
            last = session.scalar(select(Key.last_used_at).where(Key.id == identity.key_id))
        if last is None or at - last > _LAST_USED_STEP:
            with db.transaction(self.engine) as session:
                key = session.get(Key, identity.key_id)
                if key:
                    key.last_used_at = at
        return identity

    @staticmethod
    def _session_identity(session: Session, token: str) -> Identity:
        id, secret = api_keys.split_token(token)
        for row, identity in browser_sessions.live(session, id):
            if hmac.compare_digest(row.secret_sha256, api_keys.digest(secret)):
                return identity
        raise api_keys.not_valid()


def has_live_key(engine: Engine) -> bool:
    """Return whether any key is neither revoked nor expired."""
    with db.reading(engine) as session:
        at = db.now(session)
        query = select(func.count()).select_from(Key).where(Key.revoked_at.is_(None))
        return bool(session.scalar(query.where((Key.expires_at.is_(None)) | (Key.expires_at > at))))


def ensure_root_key(settings: Settings, engine: Engine) -> None:
    """Create the admin key that FITSERVE_ROOT_KEY holds, unless it exists."""
    if settings.root_key is None:
        return
    token = settings.root_key.get_secret_value().strip()
    key_id, _ = api_keys.split_token(token)
    with db.transaction(engine) as session:
        api_keys.ensure(session, token, owner="admin", name=f"root-{key_id}"[:63].lower(), scopes=["admin"])


# --- limits --------------------------------------------------------------------------------------------------------


class Limiter:
    """Counters of each key's requests and uploads."""

    def __init__(self, settings: Settings) -> None:
        self.requests_per_minute = settings.rate_requests_per_minute
        self.uploads_per_hour = settings.rate_uploads_per_hour
        self.feedback_per_hour = settings.rate_feedback_per_hour
        self._local = FixedWindowRateLimiter(MemoryStorage())
        self._shared = FixedWindowRateLimiter(_redis(settings)) if settings.redis_url else self._local
        self._retry_redis_at = 0.0

    def limit(self, request: Request, caller: Caller) -> None:
        """Count a request of an authenticated caller. Raises TooMany (429) with `Retry-After`.

        A key's own quota takes precedence over the settings.
        """
        item: RateLimitItem
        if request.method in ("POST", "PUT") and route_template(request.scope).removeprefix("/api/v1") in _UPLOADS:
            name, window = "uploads", 3600
            item = RateLimitItemPerHour(caller.quotas.uploads_per_hour or self.uploads_per_hour, namespace=name)
        else:
            name, window = "requests", 60
            item = RateLimitItemPerMinute(caller.quotas.requests_per_minute or self.requests_per_minute, namespace=name)
        allowed, remaining, reset = self._hit(item, caller.key_id)
        # The instrumentation adds these to every answer, also to refusals and files.
        request.scope["rate_limit_headers"] = {
            "RateLimit-Policy": f'"{name}";q={item.amount};w={window}',
            "RateLimit": f'"{name}";r={remaining};t={reset}',
        }
        if not allowed:
            raise TooMany(f"This key has used up its {name}: {item.amount} in {window} s.", retry_after=reset)

    def limit_feedback(self, caller: Caller, rows: int) -> None:
        """Count rows of ground truth of a caller. Raises TooMany (429) with `Retry-After`."""
        item = RateLimitItemPerHour(self.feedback_per_hour, namespace="feedback")
        allowed, _, reset = self._hit(item, caller.key_id, rows)
        if not allowed:
            raise TooMany(f"This key has used up its ground truth: {item.amount} rows in an hour.", retry_after=reset)

    def _hit(self, item: RateLimitItem, key_id: str, cost: int = 1) -> tuple[bool, int, int]:
        """Count `cost`. Return whether it is allowed, how many remain, and the seconds until the window ends."""
        if time.monotonic() >= self._retry_redis_at:
            try:
                return _hit(self._shared, item, key_id, cost)
            except Exception as error:  # redis-py, kombu and sockets each raise their own
                self._retry_redis_at = time.monotonic() + _REDIS_RETRY_SECONDS
                log.warning("rate limits are counted in this process only", extra={"error": type(error).__name__})
        return _hit(self._local, item, key_id, cost)


def _hit(counter: FixedWindowRateLimiter, item: RateLimitItem, key_id: str, cost: int) -> tuple[bool, int, int]:
    allowed = counter.hit(item, key_id, cost=cost)
    window = counter.get_window_stats(item, key_id)
    return allowed, max(0, window.remaining), max(1, math.ceil(window.reset_time - time.time()))


def _redis(settings: Settings) -> Storage:
    # The broker's thread may be importing it at this moment, and `limits` reads the version of a half-imported module.
    import redis  # noqa: F401

    # Kombu's `redis+socket:///path?virtual_host=0` is `redis+unix:///path?db=0` here.
    url = str(settings.redis_url).replace("redis+socket://", "redis+unix://").replace("virtual_host=", "db=")
    return RedisStorage(url, socket_timeout=0.2, socket_connect_timeout=0.2)
