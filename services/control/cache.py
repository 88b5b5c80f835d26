"""A bounded cache of values that are loaded when they are missing."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    bytes: int
    expires_at: float


class LoadingCache(Generic[V]):
    """Values by key, of which the least recently used are dropped. Safe to share between threads.

    Loading happens outside the lock: two threads that miss the same key at once both load it.
    """

    def __init__(
        self, max_entries: int, max_bytes: float = float("inf"), lifetime_seconds: float = float("inf")
    ) -> None:
        self.max_entries, self.max_bytes, self.lifetime_seconds = max_entries, max_bytes, lifetime_seconds
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], V], size: Callable[[V], int] = lambda _: 0) -> V:
        """Return the value of `key`, from `load` if it is missing or too old; `size` gives the bytes it occupies."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.expires_at > time.monotonic():
                self._entries.move_to_end(key)
                return entry.value
        value = load()
        with self._lock:
            self._remove(key)
            self._entries[key] = _Entry(value, size(value), time.monotonic() + self.lifetime_seconds)
            self._bytes += self._entries[key].bytes
            # The newest entry stays even if it alone is too large, or it would be loaded for every request.
            while len(self._entries) > 1 and (len(self._entries) > self.max_entries or self._bytes > self.max_bytes):
                self._remove(next(iter(self._entries)))
        return value

    def _remove(self, key: Hashable) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._bytes -= entry.bytes

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0
