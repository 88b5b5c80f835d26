"""Two threads beside the event loop: one looks at the registry, one loads networks.

Neither is ever waited for by a request that has its network. What they find is handed to the event loop with
`call_soon_threadsafe`, so everything that requests read is changed by one thread alone.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, select

from fitserve import api_keys as keys
from fitserve import db, registry
from fitserve.blobs import BlobStore
from fitserve.registry import ModelFacts
from fitserve.tables import Key
from services.predict.catalog.catalog import Slot
from services.predict.catalog.loaded_model import Network
from services.predict.catalog.loading import LoadFailed, load
from services.predict.server.access import KnownKey

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the registry found changed. `keys` is None where they are as before."""

    changed: list[ModelFacts]
    gone: list[str]
    keys: dict[str, KnownKey] | None


class Watcher(threading.Thread):
    """Looks at the registry every `seconds`, and at once when poked."""

    def __init__(self, engine: Engine, seconds: float, found: Callable[[Seen], None], failed: Callable[[], None]):
        super().__init__(name="registry-watch", daemon=True)
        self.engine, self.seconds = engine, seconds
        self.found, self.failed = found, failed
        self._generations: dict[str, tuple[str, int]] = {}
        self._keys: dict[str, KnownKey] = {}
        self._first = True
        self._poke = threading.Event()
        self._stop = threading.Event()

    def poke(self) -> None:
        """Look now."""
        self._poke.set()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._poke.set()

    def run(self) -> None:
        broken = False
        while not self._stop.is_set():
            try:
                self.found(self.look())
                broken = False
            except Exception as error:
                self.failed()
                if not broken:  # said once; what is known is served on
                    log.warning("the registry cannot be read", extra={"error": type(error).__name__})
                broken = True
            self._poke.wait(self.seconds)
            self._poke.clear()

    def look(self) -> Seen:
        """One look, in one reading transaction."""
        with db.reading(self.engine) as session:
            generations = registry.generations(session)
            moved = [name for name, stamp in generations.items() if self._generations.get(name) != stamp]
            changed = registry.facts(session, moved) if moved else []
            at = db.now(session)
            live = {
                key.id: KnownKey(key.secret_sha256, keys.identity(key))
                for key in session.scalars(select(Key).where(Key.revoked_at.is_(None)))
                if keys.is_live(key, at)
            }
        gone = [name for name in self._generations if name not in generations]
        new_keys = live if self._first or live != self._keys else None
        self._generations, self._keys, self._first = generations, live, False
        return Seen(changed, gone, new_keys)


class Loader(threading.Thread):
    """Loads one network after the other; those that requests wait for come first."""

    def __init__(self, blobs: BlobStore, done: Callable[[Slot, Network | LoadFailed], None]) -> None:
        super().__init__(name="loader", daemon=True)
        self.blobs, self.done = blobs, done
        self._queue: queue.PriorityQueue[tuple[int, int, Slot | None, str | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()

    def ask(self, slot: Slot, label: str | None, urgent: bool) -> None:
        """Load this; `done` is told the outcome."""
        self._queue.put((0 if urgent else 1, next(self._numbers), slot, label))

    def stop(self) -> None:
        """Ends the thread after what it is at."""
        self._queue.put((-1, 0, None, None))

    def run(self) -> None:
        while True:
            _, _, slot, label = self._queue.get()
            if slot is None:
                return
            if slot.network is not None:
                continue
            try:
                outcome: Network | LoadFailed = load(self.blobs, slot.model, slot.version, label, slot.artifact)
            except LoadFailed as error:
                outcome = error
            self.done(slot, outcome)
