"""Keep the models in memory in step with the registry: load new versions, swap them in, unload unused ones.

Everything here runs in the event loop's thread; polls and loads hand their results over to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Engine

from fitserve.blobs import BlobStore
from fitserve.errors import Unavailable
from fitserve.registry import ModelFacts
from fitserve.settings import Settings
from services.predict.catalog.access import Access
from services.predict.catalog.catalog import Catalog, CatalogEntry, Servable, State
from services.predict.catalog.loaded_model import LoadedModel, LoadFailed
from services.predict.catalog.registry_poll import ModelLoader, RegistryChanges, RegistryPoller
from services.predict.serving.counters import Counters
from services.predict.serving.drift_monitor import DriftMonitor

log = logging.getLogger(__name__)

FIRST_POLL_SECONDS = 5.0  # a process starts to listen after the first poll, or after this time
RETRY_SECONDS = 10.0  # between two attempts to load a version that failed
IDLE_SECONDS = 60.0  # an unused version that no name needs is unloaded after this
MODEL_BYTES = 300_000  # assumed of a model that is not loaded yet, against the memory budget


class ModelUpdates:
    """Updater that keeps `catalog` and `access` in step with the registry."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        blobs: BlobStore,
        catalog: Catalog,
        access: Access,
        counters: Counters,
        drift: DriftMonitor,
    ) -> None:
        self.settings, self.catalog, self.access, self.counters = settings, catalog, access, counters
        self.on_change: list[Callable[[], None]] = []  # called when a key, a label or a model has changed
        self.polled = False
        self._drift = drift
        self._expiry: asyncio.TimerHandle | None = None
        self._first_poll = asyncio.Event()  # set once it has succeeded or failed
        self._first_loads: set[Servable] = set()  # servables that readiness waits for
        self._loader = ModelLoader(blobs, lambda *outcome: self._hand_over(self._finish_load, *outcome))
        self._poller = RegistryPoller(
            engine,
            settings.registry_poll_seconds,
            on_poll=lambda changes: self._hand_over(self._apply_changes, changes),
            on_failure=lambda: self._hand_over(self._count_failed_poll),
        )

    def start(self) -> None:
        """Start the threads. Belongs to the event loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._loader.start()
        self._poller.start()

    def stop(self) -> None:
        """End the threads."""
        self._poller.stop()
        self._loader.stop()

    def poll_now(self) -> None:
        """Have the registry polled at once."""
        self._poller.poll_now()

    def _hand_over(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is stopping
            self._loop.call_soon_threadsafe(function, *arguments)

    async def first_poll(self) -> None:
        """Wait for the first poll, so that no request is refused because its key or model is not known yet.

        It does not wait for a registry that is unavailable: requests are refused with 503 meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_poll.wait(), FIRST_POLL_SECONDS)

    def check_ready(self) -> None:
        """Raise Unavailable until the registry was read and the first models were loaded, or failed to."""
        if not self.polled:
            raise Unavailable("The registry has not been read yet.")
        if self._first_loads:
            raise Unavailable(f"{len(self._first_loads)} models are being loaded.")

    @property
    def ready(self) -> bool:
        return self.polled and not self._first_loads

    def _apply_changes(self, changes: RegistryChanges) -> None:
        """Apply the changes that a poll of the registry has read."""
        for name in changes.deleted:
            self.catalog.entries.pop(name, None)
        for facts in changes.changed:
            self._update_entry(facts)
        if changes.keys is not None:
            self.access.replace(changes.keys)
            self._expire_keys()
        if not self.polled:
            wanted = [one for entry in self.catalog.entries.values() if entry.facts.wanted for one in entry.required]
            missing = [one for one in wanted if one.loaded_model is None and one.state == State.start]
            self._first_loads = set(missing[: self.settings.predict_memory_bytes // MODEL_BYTES])
            self.polled = True
            self._first_poll.set()
        if changes:
            self._notify_change()
        self._sweep()

    def _expire_keys(self) -> None:
        """Drop expired keys now and when the next one expires, whether or not the database answers then."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.access.drop_expired():
            self._notify_change()
        self._expiry = None
        if (moment := self.access.next_expiry) is not None:
            seconds = (moment - datetime.now(UTC)).total_seconds()
            self._expiry = self._loop.call_later(min(max(0.0, seconds), 3600.0), self._expire_keys)

    def _count_failed_poll(self) -> None:
        """Count a failed poll. Serving continues with the last known state."""
        self.counters.poll_failures += 1
        self._first_poll.set()
        self._sweep()

    def _update_entry(self, facts: ModelFacts) -> None:
        before = self.catalog.entries.get(facts.name)
        answered = before.answering if before is not None else None
        entry = self.catalog.entries[facts.name] = CatalogEntry.build(facts, before)
        self._count_swap(answered, entry)
        for servable in entry.servables.values():
            _apply_registered_decisions(servable, facts)
        if not facts.wanted:
            for servable in entry.servables.values():
                servable.loaded_model, servable.state = None, State.end if servable.failed else State.start
            for pointer in entry.pointers():
                pointer.current = pointer.target

    def _count_swap(self, before: Servable | None, entry: CatalogEntry) -> None:
        after = entry.answering
        if before is not None and after is not None and after is not before:
            self.counters.swaps[entry.facts.name] += 1

    def _sweep(self) -> None:
        """Load missing servables, retry failed ones, unload those that no name needs."""
        now = time.monotonic()
        room = self.settings.predict_memory_bytes - sum(model.bytes for model in self.catalog.loaded_models())
        for entry in self.catalog.entries.values():
            required = entry.required
            for servable in required:
                due = servable.failed and servable.retry_at <= now
                fits = servable.state == State.start and not servable.error and room > 0
                if entry.facts.wanted and servable.loaded_model is None and (due or fits):
                    room -= MODEL_BYTES
                    self.request_load(servable, urgent=False)
            current = [pointer.current for pointer in (entry.default, *entry.labels.values()) if pointer]
            for servable in entry.servables.values():
                model = servable.loaded_model
                idle = model is not None and now - model.last_used > IDLE_SECONDS
                if idle and servable not in required and servable not in current:
                    self._unload(servable)

    def request_load(self, servable: Servable, urgent: bool) -> None:
        """Have a servable loaded, unless it is already being loaded."""
        if servable.state == State.loading and not urgent:
            return
        servable.state = State.loading
        label = None
        if entry := self.catalog.entries.get(servable.model):
            artifacts = {version.version: version.artifact for version in entry.facts.versions}
            if artifacts.get(servable.version) != servable.artifact:
                # An epoch's checkpoint: only its label distinguishes it from its version.
                label = next((one.label for one in entry.facts.labels if one.artifact == servable.artifact), None)
        self._loader.enqueue(servable, label, urgent)

    def _finish_load(self, servable: Servable, outcome: LoadedModel | LoadFailed) -> None:
        """Apply the outcome of a load, and wake the requests that wait for it."""
        self._first_loads.discard(servable)
        entry = self.catalog.entries.get(servable.model)
        if entry is not None and not entry.facts.wanted:
            outcome = LoadFailed("UNAVAILABLE", "The model is unloaded.")
        if isinstance(outcome, LoadFailed):
            servable.state, servable.error, servable.error_code = State.end, str(outcome), outcome.code
            servable.retry_at = time.monotonic() + RETRY_SECONDS
            self.counters.load_failures[servable.model] += 1
            self.counters.note_fault(servable.model, servable.version, "load", "", outcome.code, str(outcome))
            details = {"model": servable.model, "version": servable.version, "why": str(outcome)}
            log.error("a version cannot be loaded", extra=details)
        else:
            servable.loaded_model, servable.state = outcome, State.available
            servable.error, servable.error_code = "", "OK"
            outcome.sampler = self._drift.sampler_of(outcome)
            if entry is not None:
                _apply_registered_decisions(servable, entry.facts)
            self.counters.loads += 1
        if entry is not None:
            answered = entry.answering
            entry.choose_current()
            self._count_swap(answered, entry)
        waiters, servable.waiters = servable.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._evict_for(servable)
        self._notify_change()

    def _evict_for(self, newest: Servable) -> None:
        """Unload the least recently used models until the rest fit the memory budget."""
        total = sum(model.bytes for model in self.catalog.loaded_models())
        models = {one: one.loaded_model for one in self.catalog.loaded_servables() if one is not newest}
        for servable, model in sorted(models.items(), key=lambda pair: pair[1].last_used if pair[1] else 0.0):
            if total <= self.settings.predict_memory_bytes:
                return
            total -= model.bytes if model else 0
            self._unload(servable)
            self.counters.evictions += 1

    def _unload(self, servable: Servable) -> None:
        servable.loaded_model, servable.state = None, State.start
        self._notify_change()

    def _notify_change(self) -> None:
        for callback in self.on_change:
            callback()


def _apply_registered_decisions(servable: Servable, facts: ModelFacts) -> None:
    """Put the newest decisions and levels in force; a checkpoint of an epoch keeps those of its manifest."""
    model = servable.loaded_model
    if model is None:
        return
    own = next((v for v in facts.versions if (v.version, v.artifact) == (model.version, model.artifact)), None)
    registered = None if own is None else own.decisions
    model.set_error_rates({} if own is None else own.error_rates)
    model.set_decisions(model.manifest.get("decisions") or () if registered is None else registered)
