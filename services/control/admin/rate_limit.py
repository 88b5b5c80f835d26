"""Requests and uploads of one key within a time, counted in Redis when it answers, else in this process.

The headers are those of the IETF draft `ratelimit-headers`: `RateLimit-Policy: "requests";q=6000;w=60` and
`RateLimit: "requests";r=5999;t=60`.
"""

from __future__ import annotations

import logging
import math
import time

from fastapi import Request
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter

from fitserve.errors import TooMany
from fitserve.settings import Settings
from services.shell import Caller
from services.shell.instrumentation import route_template

log = logging.getLogger(__name__)
_UPLOADS = frozenset(
    {"/datasets/{name}", "/datasets", "/datasets/{ref}/rows", "/datasets/samples", "/uploads"}
)  # what makes a dataset
_AWAY_SECONDS = 10.0  # after Redis failed, this process counts alone for so long


class Limiter:
    """Counts what each key does."""

    def __init__(self, settings: Settings) -> None:
        self.usual = {"requests": settings.rate_requests_per_minute, "uploads": settings.rate_uploads_per_hour}
        self.alone = FixedWindowRateLimiter(MemoryStorage())
        self.together = FixedWindowRateLimiter(_redis(settings)) if settings.redis_url else self.alone
        self._away_until = 0.0

    def item(self, kind: type[RateLimitItem], name: str, own: int | None) -> RateLimitItem:
        """What is counted: by the key's own quota, else as the settings say for every key."""
        return kind(self.usual[name] if own is None else own, namespace=name)

    def hit(self, item: RateLimitItem, key_id: str) -> tuple[bool, int, int]:
        """Counts one: whether it is allowed, how many remain, seconds until the window ends."""
        if time.monotonic() >= self._away_until:
            try:
                return self._hit(self.together, item, key_id)
            except Exception as error:  # redis-py, kombu and sockets each raise their own
                self._away_until = time.monotonic() + _AWAY_SECONDS
                log.warning("rate limits are counted in this process alone", extra={"error": type(error).__name__})
        return self._hit(self.alone, item, key_id)

    def _hit(self, counter: FixedWindowRateLimiter, item: RateLimitItem, key_id: str) -> tuple[bool, int, int]:
        allowed = counter.hit(item, key_id)
        window = counter.get_window_stats(item, key_id)
        return allowed, max(0, window.remaining), max(1, math.ceil(window.reset_time - time.time()))


def _redis(settings: Settings) -> Storage:
    """Kombu's `redis+socket:///path?virtual_host=0` is `redis+unix:///path?db=0` elsewhere."""
    # The broker's thread may be importing it at this moment, and `limits` reads the version of a half-imported module.
    import redis  # noqa: F401

    url = str(settings.redis_url).replace("redis+socket://", "redis+unix://").replace("virtual_host=", "db=")
    return RedisStorage(url, socket_timeout=0.2, socket_connect_timeout=0.2)


def limited(request: Request, caller: Caller) -> None:
    """Called for every request with a valid key. Raises TooMany (429) with `Retry-After`."""
    limiter: Limiter = request.app.state.limiter
    item = limiter.item(RateLimitItemPerMinute, "requests", caller.quotas.requests_per_minute)
    name, window = "requests", 60
    if request.method in ("POST", "PUT") and route_template(request.scope).removeprefix("/api/v1") in _UPLOADS:
        item = limiter.item(RateLimitItemPerHour, "uploads", caller.quotas.uploads_per_hour)
        name, window = "uploads", 3600
    allowed, remaining, reset = limiter.hit(item, caller.key_id)
    request.scope["rate_limit_headers"] = {  # on every answer, refusals and files as well
        "RateLimit-Policy": f'"{name}";q={item.amount};w={window}',
        "RateLimit": f'"{name}";r={remaining};t={reset}',
    }
    if not allowed:
        raise TooMany(f"This key's {name} are used up: {item.amount} in {window} s.", retry_after=reset)
