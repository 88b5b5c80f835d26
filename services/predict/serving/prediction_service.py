"""The one operation behind every protocol: which network answers, and what it says.

Everything here runs in the event loop's thread and touches no database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Engine

from fitserve.api_keys import Identity
from fitserve.blobs import BlobStore
from fitserve.errors import BadInput, DeadlineExceeded, NotFound, TooLarge, TooMany, Unavailable
from fitserve.registry import ModelFacts
from fitserve.settings import Settings
from services.predict.catalog.catalog import Catalog, Entry, Pointer, Slot, State, make_entry, settle
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.catalog.loading import LoadFailed
from services.predict.catalog.registry_poll import Loader, Seen, Watcher
from services.predict.server.access import Access, sees
from services.predict.serving.batching import Batcher
from services.predict.serving.counters import Counters
from services.predict.serving.drift import DriftDesk
from services.predict.serving.rows import Rows
from services.predict.serving.shadows import Shadows
from services.predict.serving.timing import TIMING, Timing

log = logging.getLogger(__name__)

INLINE_SECONDS = 0.001  # estimated inference up to this stays on the event loop
LOAD_SECONDS = 30.0  # a request waits no longer for a network to be loaded
IDLE_SECONDS = 60.0  # a version that no name needs is unloaded after this
MOST_IN_FLIGHT = 2048  # requests of one process; beyond, 429


def _answering(entry: Entry | None) -> Slot | None:
    """The slot whose network answers requests without a version."""
    slot = entry.default.current if entry is not None and entry.default is not None else None
    return slot if slot is not None and slot.network is not None else None


@dataclass(frozen=True, slots=True)
class Selector:
    """What a request names: a model, and a version or a label or neither."""

    model: str
    version: int | None = None
    label: str | None = None


class Service:
    """The data plane of one process."""

    def __init__(self, settings: Settings, engine: Engine, blobs: BlobStore) -> None:
        self.settings, self.engine, self.blobs = settings, engine, blobs
        self.catalog = Catalog()
        self.access = Access(settings.auth)
        self.counters = Counters()
        self.drift = DriftDesk(settings, engine, self._networks)
        self.executor = ThreadPoolExecutor(4, thread_name_prefix="inference")
        self.on_change: list[Callable[[], None]] = []  # the fast lane forgets what it remembers
        self.seen_at = 0.0  # monotonic seconds of the last look at the registry
        self._batchers: dict[Network, Batcher] = {}
        self._first_look = asyncio.Event()
        self._first_loads: set[Slot] = set()
        self.shadows = Shadows(self.executor, self.counters)

    # Life

    def start(self) -> None:
        """Starts looking at the registry. Belongs to the event loop's thread."""
        self.loop = asyncio.get_running_loop()

        def hand_over(function: Callable[..., None], *arguments: object) -> None:
            try:
                self.loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # the loop is closed: we are stopping
                pass

        self.loader = Loader(self.blobs, lambda slot, outcome: hand_over(self.loaded, slot, outcome))
        self.watcher = Watcher(
            self.engine,
            self.settings.registry_poll_seconds,
            lambda seen: hand_over(self.saw, seen),
            lambda: hand_over(self.could_not_see),
        )
        self.loader.start()
        self.watcher.start()
        self.drift.start()

    def stop(self) -> None:
        """Ends the threads."""
        self.watcher.stop()
        self.loader.stop()
        self.drift.stop()
        self.drift.join(5)
        self.executor.shutdown(wait=False, cancel_futures=True)

    def check_ready(self) -> None:
        """Raises Unavailable until the registry was read and the first networks were tried."""
        if not self._first_look.is_set():
            raise Unavailable("The registry has not been read yet.")
        if self._first_loads:
            raise Unavailable(f"{len(self._first_loads)} networks are being loaded.")

    # What the threads find

    def saw(self, seen: Seen) -> None:
        """A look at the registry ended."""
        self.seen_at = time.monotonic()
        self.counters.polls += 1
        for name in seen.gone:
            self.catalog.entries.pop(name, None)
        for facts in seen.changed:
            self._update(facts)
        if seen.keys is not None:
            self.access.replace(seen.keys)
        if not self._first_look.is_set():
            budget = self.settings.predict_memory_bytes
            self._first_loads = {slot for slot in self._wanted() if (budget := budget - 300_000) > 0}
            self._first_look.set()
        if seen.changed or seen.gone or seen.keys is not None:
            self._changed()
        self._sweep()

    def could_not_see(self) -> None:
        """A look at the registry failed: what is known is served on."""
        self.counters.poll_failures += 1
        self._sweep()

    def _update(self, facts: ModelFacts) -> None:
        before = self.catalog.entries.get(facts.name)
        answered = _answering(before)
        entry = make_entry(facts, before)
        self.catalog.entries[facts.name] = entry
        self._note_swap(answered, entry)
        if not facts.loaded:
            for slot in entry.slots.values():
                slot.network, slot.state = None, State.end if slot.failed else State.start
            for pointer in entry.pointers():
                pointer.current = pointer.wanted[0]

    def _wanted(self) -> Iterable[Slot]:
        for entry in self.catalog.entries.values():
            if entry.facts.loaded:
                yield from (slot for slot in entry.needed if slot.network is None and slot.state == State.start)

    def _sweep(self) -> None:
        """Asks for what is missing, retries what failed, unloads what nobody needs."""
        now = time.monotonic()
        room = self.settings.predict_memory_bytes - sum(n.bytes for n in self._networks())
        for entry in self.catalog.entries.values():
            needed = entry.needed
            for slot in needed:
                due = slot.failed and slot.retry_at <= now
                fits = slot.state == State.start and room > 0
                if entry.facts.loaded and slot.network is None and (due or (fits and not slot.error)):
                    room -= 300_000
                    self.ask(slot, urgent=False)
            answering = {id(pointer.current) for pointer in (entry.default, *entry.labels.values()) if pointer}
            for slot in entry.slots.values():
                idle = slot.network is not None and now - slot.network.last_used > IDLE_SECONDS
                if idle and slot not in needed and id(slot) not in answering:
                    self._unload(slot)

    def _networks(self) -> list[Network]:
        return [slot.network for slot in self.catalog.loaded() if slot.network is not None]

    def ask(self, slot: Slot, urgent: bool) -> None:
        """Has a slot loaded, unless that is under way."""
        if slot.state == State.loading and not urgent:
            return
        slot.state = State.loading
        entry = self.catalog.entries.get(slot.model)
        own = (
            None
            if entry is None
            else next((v.artifact for v in entry.facts.versions if v.version == slot.version), None)
        )
        label = None
        if entry is not None and own != slot.artifact:  # a kept checkpoint: its label tells it from the version
            label = next((p.label for p in entry.facts.labels if p.artifact == slot.artifact), None)
        self.loader.ask(slot, label, urgent)

    def loaded(self, slot: Slot, outcome: Network | LoadFailed) -> None:
        """The loader has finished with a slot."""
        self._first_loads.discard(slot)
        entry = self.catalog.entries.get(slot.model)
        if entry is not None and not entry.facts.loaded:
            outcome = LoadFailed("UNAVAILABLE", "The model is unloaded.")
        if isinstance(outcome, LoadFailed):
            self._failed(slot, outcome)
        else:
            slot.network, slot.state, slot.error, slot.error_code = outcome, State.available, "", "OK"
            outcome.watched = self.drift.watch(outcome)
            self.counters.loads += 1
        if entry is not None:
            answered = _answering(entry)
            settle(entry)
            self._note_swap(answered, entry)
        waiters, slot.waiters = slot.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._keep_budget(slot)
        self._changed()

    def _note_swap(self, before: Slot | None, entry: Entry) -> None:
        after = _answering(entry)
        if before is not None and after is not None and after is not before:
            self.counters.swaps[entry.facts.name] += 1

    def _failed(self, slot: Slot, error: LoadFailed) -> None:
        slot.state, slot.error, slot.error_code = State.end, str(error), error.code
        slot.retry_at = time.monotonic() + 10.0
        self.counters.load_failures[slot.model] += 1
        log.error("a version cannot be loaded", extra={"model": slot.model, "version": slot.version, "why": str(error)})

    def _keep_budget(self, newest: Slot) -> None:
        """Unloads the least recently used until the rest fits."""
        slots = [slot for slot in self.catalog.loaded() if slot is not newest]
        total = sum(n.bytes for n in self._networks())
        slots.sort(key=lambda slot: slot.network.last_used if slot.network else 0.0)
        for slot in slots:
            if total <= self.settings.predict_memory_bytes:
                return
            total -= slot.network.bytes if slot.network else 0
            self._unload(slot)
            self.counters.evictions += 1

    def _unload(self, slot: Slot) -> None:
        if slot.network is not None:
            self._batchers.pop(slot.network, None)
        slot.network, slot.state = None, State.start
        self._changed()

    def _changed(self) -> None:
        for network in [network for network in self._batchers if network not in set(self._networks())]:
            del self._batchers[network]
        for forget in self.on_change:
            forget()

    # What requests ask

    def entry(self, name: str, identity: Identity) -> Entry:
        """A model that this caller sees. Raises NotFound."""
        entry = self.catalog.entries.get(name)
        if entry is None or not sees(identity, entry.facts.owner, entry.facts.shared):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
        return entry

    def entries(self, identity: Identity) -> list[Entry]:
        """All models that this caller sees, by name."""
        found = self.catalog.entries.values()
        return sorted(
            (e for e in found if sees(identity, e.facts.owner, e.facts.shared)), key=lambda entry: entry.facts.name
        )

    def pointer(self, entry: Entry, selector: Selector) -> Pointer:
        """Who answers. Raises NotFound for an unknown version, BadInput for an unknown label."""
        name = entry.facts.name
        if not entry.facts.loaded:
            raise NotFound(f"The model {name} is unloaded.", fix="Load it first.")
        if selector.label is not None:
            if selector.label not in entry.labels:
                raise BadInput(f"The model {name} has no label {selector.label[:63]}.", received=selector.label[:100])
            return entry.labels[selector.label]
        if selector.version is not None:
            if selector.version not in entry.versions:
                raise NotFound(f"The model {name} has no version {selector.version}.")
            return entry.versions[selector.version]
        drawn = self.catalog.draw(entry)
        if drawn is None:
            raise NotFound(f"The model {name} has no version.")
        return drawn

    async def network(self, pointer: Pointer, deadline: float | None = None) -> Network:
        """The network behind a pointer, loaded now where it is not. Raises Unavailable, DeadlineExceeded."""
        slot = pointer.current or pointer.wanted[0]
        if slot.network is not None:
            return slot.network
        if slot.failed and slot.retry_at > time.monotonic():
            raise Unavailable(f"Version {slot.version} of {slot.model} cannot be loaded: {slot.error}", retry_after=10)
        waiter = self.loop.create_future()
        slot.waiters.append(waiter)
        self.ask(slot, urgent=True)
        limit = self.loop.time() + LOAD_SECONDS
        try:
            async with asyncio.timeout_at(limit if deadline is None else min(limit, deadline)):
                await waiter
        except TimeoutError:
            raise DeadlineExceeded(f"Version {slot.version} of {slot.model} was not loaded in time.") from None
        if slot.network is None:
            raise Unavailable(f"Version {slot.version} of {slot.model} cannot be loaded: {slot.error}", retry_after=10)
        return slot.network

    async def predict(
        self, network: Network, rows: Rows, deadline: float | None = None, entry: Entry | None = None
    ) -> Prediction:
        """The prediction of one request. `entry` is given where its shadows shall see the rows too.

        Raises BadInput, TooLarge, TooMany, DeadlineExceeded.
        """
        if rows.count > self.settings.limits.predict_rows:
            raise TooLarge(
                "The request has too many rows.",
                received=rows.count,
                expected=f"at most {self.settings.limits.predict_rows}",
            )
        network.last_used = time.monotonic()
        if deadline is not None and deadline <= self.loop.time():
            self.counters.expired += 1
            raise DeadlineExceeded("The deadline had passed when the request arrived.")
        timing = TIMING.get() or Timing()
        timing.network, timing.predict_at = network, time.perf_counter()
        if network.small and rows.count * network.seconds_for_one < INLINE_SECONDS:
            prediction = network.predict(rows, timing)
            self.counters.sizes[network.model, network.version_text].observe(rows.count)
        else:
            batcher = self._batchers.get(network)
            if batcher is None:
                batcher = self._batchers[network] = Batcher(network, self.executor, self.counters)
            prediction = await batcher.submit(rows, deadline, timing)
        timing.prediction, timing.predicted_at = prediction, time.perf_counter()
        self._count(prediction)
        if network.watched is not None:
            network.watched.take_rows(rows, prediction.outputs)
        if entry is not None and entry.shadows:
            self.shadows.follow(entry, rows, prediction)
        return prediction

    def _count(self, prediction: Prediction) -> None:
        network = prediction.network
        self.counters.rows[network.model, network.version_text] += prediction.rows
        for warnings in prediction.warnings or ():
            for warning in warnings:
                self.counters.warnings[network.model, warning["code"]] += 1

    def admit(self) -> None:
        """Counts a request in. Raises TooMany where this process has too many at once."""
        if self.counters.in_flight >= MOST_IN_FLIGHT:
            self.counters.shed += 1
            raise TooMany("Too many predictions at once.", retry_after=1)
        self.counters.in_flight += 1
