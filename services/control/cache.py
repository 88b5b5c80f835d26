"""A bounded cache of values that are loaded when they are missing."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class LoadingCache(Generic[V]):
    """Values by key, of which the least recently used are dropped. Safe to share between threads.

    Loading happens outside the lock: two threads that miss the same key at once both load it.
    """

    def __init__(self, entries: int, size: float = float("inf"), seconds: float = float("inf")) -> None:
        self.max_entries, self.max_size, self.seconds = entries, size, seconds
        self._entries: OrderedDict[Hashable, tuple[V, int, float]] = OrderedDict()  # value, size, when it expires
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], V], size: Callable[[V], int] = lambda _: 0) -> V:
        """Return the value of `key`, from `load` if it is missing or has expired."""
        with self._lock:
            if key in self._entries and self._entries[key][2] > time.monotonic():
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = load()
        with self._lock:
            self._drop(key)
            self._entries[key] = value, size(value), time.monotonic() + self.seconds
            self._size += self._entries[key][1]
            # The newest entry stays even if it alone is too large, or every request would load it again.
            while len(self._entries) > 1 and (len(self._entries) > self.max_entries or self._size > self.max_size):
                self._drop(next(iter(self._entries)))
        return value

    def _drop(self, key: Hashable) -> None:
        if key in self._entries:
            self._size -= self._entries.pop(key)[1]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._size = 0
