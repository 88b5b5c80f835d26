"""Two threads beside the event loop: one polls the registry and the API keys, one loads models.

A request whose model is loaded waits for neither. Both hand their results to the event loop through callbacks, so that
one thread alone changes what requests read.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, select

from fitserve import api_keys, browser_sessions, db, registry
from fitserve.blobs import BlobStore
from fitserve.registry import ModelFacts
from fitserve.tables import Key
from services.predict.catalog.access import KnownKey
from services.predict.catalog.catalog import Servable
from services.predict.catalog.loaded_model import LoadedModel, LoadFailed, load

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryChanges:
    """Differences between two polls. `keys` is None if the keys are unchanged."""

    changed: list[ModelFacts]
    deleted: list[str]
    keys: dict[str, KnownKey] | None

    def __bool__(self) -> bool:
        return bool(self.changed or self.deleted or self.keys is not None)


class RegistryPoller(threading.Thread):
    """Polls the registry every `seconds`, and at once after `poll_now`."""

    def __init__(
        self,
        engine: Engine,
        seconds: float,
        on_poll: Callable[[RegistryChanges], None],
        on_failure: Callable[[], None],
    ) -> None:
        super().__init__(name="registry-poll", daemon=True)
        self.engine, self.seconds = engine, seconds
        self.on_poll, self.on_failure = on_poll, on_failure
        self._generations: dict[str, tuple[str, int]] = {}
        self._keys: dict[str, KnownKey] | None = None  # before the first poll
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def poll_now(self) -> None:
        """Poll without waiting for the interval to end."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        failing = False
        while not self._stopping.is_set():
            try:
                self.on_poll(self._poll())
                failing = False
            except Exception as error:
                self.on_failure()
                if not failing:  # logged once per outage; the last known state is served meanwhile
                    log.warning("the registry cannot be read", extra={"error": type(error).__name__})
                failing = True
            self._wake.wait(self.seconds)
            self._wake.clear()

    def _poll(self) -> RegistryChanges:
        """Read the registry in one transaction, and compare it with the poll before."""
        with db.reading(self.engine) as session:
            generations = registry.generations(session)
            moved = [name for name, stamp in generations.items() if self._generations.get(name) != stamp]
            changed = registry.load_facts(session, moved) if moved else []
            now = db.now(session)
            keys = {
                key.id: KnownKey(key.secret_sha256, api_keys.identity(key))
                for key in session.scalars(select(Key).where(Key.revoked_at.is_(None)))
                if api_keys.is_live(key, now)
            }
            for row, identity in browser_sessions.live(session):
                keys[row.id] = KnownKey(row.secret_sha256, identity)
        deleted = [name for name in self._generations if name not in generations]
        changes = RegistryChanges(changed, deleted, None if keys == self._keys else keys)
        self._generations, self._keys = generations, keys
        return changes


class ModelLoader(threading.Thread):
    """Thread that loads one model after another; models that requests wait for come first."""

    def __init__(self, blobs: BlobStore, on_done: Callable[[Servable, LoadedModel | LoadFailed], None]) -> None:
        super().__init__(name="model-loader", daemon=True)
        self.blobs, self.on_done = blobs, on_done
        self._queue: queue.PriorityQueue[tuple[int, int, Servable | None, str | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()  # keep the order of equal priorities

    def enqueue(self, servable: Servable, label: str | None, urgent: bool) -> None:
        """Have a servable loaded; `on_done` gets the outcome."""
        self._queue.put((0 if urgent else 1, next(self._numbers), servable, label))

    def stop(self) -> None:
        """End the thread after the load that is under way."""
        self._queue.put((-1, 0, None, None))

    def run(self) -> None:
        while True:
            _, _, servable, label = self._queue.get()
            if servable is None:
                return
            if servable.loaded_model is not None:
                continue
            try:
                outcome: LoadedModel | LoadFailed = load(
                    self.blobs, servable.model, servable.version, label, servable.artifact, servable.run
                )
            except LoadFailed as error:
                outcome = error
            self.on_done(servable, outcome)
