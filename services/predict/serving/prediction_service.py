"""The one operation behind every protocol: which model answers, and its prediction.

Everything here runs in the event loop's thread; no prediction touches the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitserve import artifacts, db, registry
from fitserve.api_keys import Identity
from fitserve.blobs import BlobStore
from fitserve.decisions.distance import DISTANCE_BLOB, distances
from fitserve.errors import BadInput, DeadlineExceeded, NotFound, TooMany, Unavailable
from fitserve.registry import ModelFacts, RolloutFacts
from fitserve.settings import Settings
from services.predict.catalog.access import Access, can_see, may_use, require_use
from services.predict.catalog.catalog import Catalog, CatalogEntry, Pointer, Servable, State
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, LoadFailed, ModelOutput, Prediction
from services.predict.catalog.registry_poll import ModelLoader, RegistryChanges, RegistryPoller
from services.predict.catalog.selector import OPEN, Selector
from services.predict.serving.batching import Batcher, Shadows
from services.predict.serving.counters import Counters
from services.predict.serving.deciding import Decided, decide, decider_of
from services.predict.serving.drift_monitor import DriftMonitor
from services.predict.serving.rollout_traffic import BASE, NEW

log = logging.getLogger(__name__)

INLINE_SECONDS = 0.001  # inference estimated to take at most this stays on the event loop
LOAD_SECONDS = 30.0  # a request waits this long for a model to be loaded
FIRST_POLL_SECONDS = 5.0  # a process listens after the first poll, or after this
T = TypeVar("T")
RETRY_SECONDS = 10.0  # between two attempts to load a version that failed
IDLE_SECONDS = 60.0  # an unused version that no name needs is unloaded after this
MODEL_BYTES = 300_000  # assumed of a model that is not loaded yet, against the memory budget
MAX_IN_FLIGHT = 2048  # requests of one process; more are answered 429


class PredictionRequest(Protocol):
    """What a prediction is told of its request, and notes of it: see `protocol_request`."""

    deadline: float | None
    is_large: bool
    left_out: dict[str, int]
    model: LoadedModel | None
    prediction: Prediction | None
    entry: CatalogEntry | None
    predict_at: float
    predicted_at: float

    def check_count(self, rows: int) -> None: ...

    async def off_loop(self, size: int, function: Callable[..., T], *arguments: Any) -> T: ...


class PredictionService:
    """The data plane of one process."""

    def __init__(self, settings: Settings, engine: Engine, blobs: BlobStore) -> None:
        self.settings, self.engine, self.blobs = settings, engine, blobs
        self.catalog = Catalog()
        self.access = Access(settings.auth)
        self.counters = Counters()
        self.drift = DriftMonitor(settings, engine, self.catalog.loaded_models)
        self.executor = ThreadPoolExecutor(4, thread_name_prefix="inference")
        self.shadows = Shadows(self.executor, self.counters, self.drift.rollouts)
        self.on_change: list[Callable[[], None]] = []  # called when a key, a label or a model has changed
        self._batchers: dict[LoadedModel, Batcher] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._polled = False
        self._first_poll = asyncio.Event()  # set once it has succeeded or failed
        self._first_loads: set[Servable] = set()  # that readiness waits for

    # Lifecycle

    def start(self) -> None:
        """Start the threads. Belongs to the event loop's thread."""
        self.loop = asyncio.get_running_loop()

        def hand_over(function: Callable[..., None], *arguments: object) -> None:
            try:
                self.loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # the loop is closed: the process is stopping
                pass

        self.loader = ModelLoader(self.blobs, lambda *outcome: hand_over(self.finish_load, *outcome))
        self.poller = RegistryPoller(
            self.engine,
            self.settings.registry_poll_seconds,
            on_poll=lambda changes: hand_over(self.apply_changes, changes),
            on_failure=lambda: hand_over(self.count_failed_poll),
        )
        self.loader.start()
        self.poller.start()
        self.drift.start()

    def stop(self) -> None:
        """End the threads."""
        self.poller.stop()
        self.loader.stop()
        self.drift.stop()
        self.drift.join(5)
        self.executor.shutdown(wait=False, cancel_futures=True)

    async def first_poll(self) -> None:
        """Wait for the first poll's end, so that no request is refused for a key or model that is not known yet.

        A registry that is away is not waited for: its clients are told so.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_poll.wait(), FIRST_POLL_SECONDS)

    def check_ready(self) -> None:
        """Raise Unavailable until the registry was read and the first models were loaded, or failed to."""
        if not self._polled:
            raise Unavailable("The registry has not been read yet.")
        if self._first_loads:
            raise Unavailable(f"{len(self._first_loads)} models are being loaded.")

    @property
    def ready(self) -> bool:
        return self._polled and not self._first_loads

    # Registry changes and loads

    def apply_changes(self, changes: RegistryChanges) -> None:
        """Apply the changes that a poll of the registry has read."""
        for name in changes.deleted:
            self.catalog.entries.pop(name, None)
        for facts in changes.changed:
            self._update_entry(facts)
        if changes.keys is not None:
            self.access.replace(changes.keys)
            self._expire_keys()
        if not self._polled:
            wanted = [one for entry in self.catalog.entries.values() if entry.facts.loaded for one in entry.required]
            missing = [one for one in wanted if one.loaded_model is None and one.state == State.start]
            self._first_loads = set(missing[: self.settings.predict_memory_bytes // MODEL_BYTES])
            self._polled = True
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
            self._expiry = self.loop.call_later(min(max(0.0, seconds), 3600.0), self._expire_keys)

    def count_failed_poll(self) -> None:
        """Count a poll that failed; what is known is served on."""
        self.counters.poll_failures += 1
        self._first_poll.set()
        self._sweep()

    def _update_entry(self, facts: ModelFacts) -> None:
        before = self.catalog.entries.get(facts.name)
        answered = before.answering if before is not None else None
        entry = self.catalog.entries[facts.name] = CatalogEntry.build(facts, before)
        self._count_swap(answered, entry)
        for servable in entry.servables.values():
            _decide_as_registered(servable, facts)
        if not facts.loaded:
            for servable in entry.servables.values():
                servable.loaded_model, servable.state = None, State.end if servable.failed else State.start
            for pointer in entry.pointers():
                pointer.current = pointer.target

    def _count_swap(self, before: Servable | None, entry: CatalogEntry) -> None:
        after = entry.answering
        if before is not None and after is not None and after is not before:
            self.counters.swaps[entry.facts.name] += 1

    def _sweep(self) -> None:
        """Load what is missing, retry what failed, unload what no name needs."""
        now = time.monotonic()
        room = self.settings.predict_memory_bytes - sum(model.bytes for model in self.catalog.loaded_models())
        for entry in self.catalog.entries.values():
            required = entry.required
            for servable in required:
                due = servable.failed and servable.retry_at <= now
                fits = servable.state == State.start and not servable.error and room > 0
                if entry.facts.loaded and servable.loaded_model is None and (due or fits):
                    room -= MODEL_BYTES
                    self.request_load(servable, urgent=False)
            current = [pointer.current for pointer in (entry.default, *entry.labels.values()) if pointer]
            for servable in entry.servables.values():
                model = servable.loaded_model
                idle = model is not None and now - model.last_used > IDLE_SECONDS
                if idle and servable not in required and servable not in current:
                    self._unload(servable)

    def request_load(self, servable: Servable, urgent: bool) -> None:
        """Have a servable loaded, unless that is under way."""
        if servable.state == State.loading and not urgent:
            return
        servable.state = State.loading
        label = None
        if entry := self.catalog.entries.get(servable.model):
            artifacts = {version.version: version.artifact for version in entry.facts.versions}
            if artifacts.get(servable.version) != servable.artifact:
                # An epoch's checkpoint: only its label distinguishes it from its version.
                label = next((one.label for one in entry.facts.labels if one.artifact == servable.artifact), None)
        self.loader.enqueue(servable, label, urgent)

    def finish_load(self, servable: Servable, outcome: LoadedModel | LoadFailed) -> None:
        """Apply the outcome of a load, and wake the requests that wait for it."""
        self._first_loads.discard(servable)
        entry = self.catalog.entries.get(servable.model)
        if entry is not None and not entry.facts.loaded:
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
            outcome.sampler = self.drift.sampler_of(outcome)
            if entry is not None:
                _decide_as_registered(servable, entry.facts)
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
        """Unload the least recently used models until the rest fits the memory budget."""
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
        loaded = set(self.catalog.loaded_models())
        for model in [model for model in self._batchers if model not in loaded]:
            del self._batchers[model]
        for callback in self.on_change:
            callback()

    # Model control: what the protocols change in the registry

    async def change_registry(self, change: Callable[[Session], None]) -> None:
        """Run a transaction on the registry in a thread. Raises what `change` raises."""

        def write() -> None:
            with db.transaction(self.engine) as session:
                change(session)

        await self.loop.run_in_executor(self.executor, write)

    async def wait_for_change(self, model: str, condition: Callable[[CatalogEntry], bool]) -> None:
        """Wait until this process has seen a change of a model. Raises Unavailable."""
        self.poller.poll_now()
        deadline = self.loop.time() + LOAD_SECONDS
        while self.loop.time() < deadline:
            entry = self.catalog.entries.get(model)
            if entry is not None and condition(entry):
                return
            await asyncio.sleep(0.01)
        raise Unavailable(f"The model {model} did not settle in time.", retry_after=5)

    async def set_loaded(self, model: str, loaded: bool) -> None:
        """Load or unload a model in every process; return once it has happened in this one."""
        await self.change_registry(lambda session: registry.set_loaded(session, model, loaded))

        def settled(entry: CatalogEntry) -> bool:
            loading = any(one.loaded_model is None and not one.failed for one in entry.required)
            return entry.facts.loaded == loaded and not (loaded and loading)

        await self.wait_for_change(model, settled)

    # Requests

    def admit(self) -> None:
        """Count a request in. Raises TooMany where this process has too many at once."""
        if self.counters.in_flight >= MAX_IN_FLIGHT:
            self.counters.shed += 1
            raise TooMany("Too many predictions at once.", retry_after=1)
        self.counters.in_flight += 1

    def find_entry(self, name: str, identity: Identity) -> CatalogEntry:
        """Return a model that this caller can see. Raises NotFound, and Unavailable before the registry is read."""
        entry = self.catalog.entries.get(name)
        if not self._polled:
            raise Unavailable("The registry has not been read yet.", retry_after=1)
        if entry is None or not can_see(identity, entry.facts.owner, entry.facts.shared):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
        require_use(identity, name)
        return entry

    def visible_entries(self, identity: Identity) -> list[CatalogEntry]:
        """Return all models that this caller can see, by name."""
        entries = sorted(self.catalog.entries.values(), key=lambda entry: entry.facts.name)
        return [
            entry
            for entry in entries
            if can_see(identity, entry.facts.owner, entry.facts.shared) and may_use(identity, entry.facts.name)
        ]

    def find_pointer(self, entry: CatalogEntry, selector: Selector, sticky_key: str | None = None) -> Pointer:
        """Return what answers. Raises NotFound for an unknown version, BadInput for an unknown label."""
        name = entry.facts.name
        if not entry.facts.loaded:
            raise NotFound(f"The model {name} is unloaded.", fix="Load it first.")
        if selector.label is not None:
            if selector.label not in entry.labels:
                raise BadInput(f"The model {name} has no label {selector.label[:63]}.", received=selector.label[:100])
            return entry.labels[selector.label]
        if selector.version is not None:
            if selector.version not in entry.versions:
                soon = f"A new version serves within {self.settings.registry_poll_seconds:g} s of its run's success."
                raise NotFound(f"The model {name} has no version {selector.version}.", fix=soon)
            return entry.versions[selector.version]
        pointer = self.catalog.pick_default(entry, sticky_key)
        if pointer is None:
            raise NotFound(f"The model {name} has no version.")
        return pointer

    def pick_canary(
        self, entry: CatalogEntry, sticky_key: str | None
    ) -> tuple[Pointer, tuple[RolloutFacts, str] | None]:
        """Return what answers a request without a version, and the side of a rollout that it is on. Raises NotFound.

        A rollout's version that cannot be loaded counts as failing, and the champion answers instead.
        """
        pointer, rollout = self.find_pointer(entry, OPEN, sticky_key), entry.facts.rollout
        if rollout is None:
            return pointer, None
        if pointer.label != rollout.label:
            return pointer, (rollout, BASE)
        current = pointer.current
        if entry.default is None or (current is not None and current.loaded_model is not None):
            return pointer, (rollout, NEW)
        if pointer.target.failed and (step := self.drift.rollouts.of(rollout, entry.before_rollout)) is not None:
            step.observe(NEW, 0.0, True, None)
        return entry.default, None

    def is_model_ready(self, entry: CatalogEntry, selector: Selector) -> bool:
        """Return whether a request would be answered: loaded, or loadable on demand. Raises NotFound, BadInput."""
        if not entry.facts.loaded or entry.default is None:
            return False
        servable = self.find_pointer(entry, selector).current
        return servable is not None and (servable.loaded_model is not None or not servable.failed)

    async def loaded_model(self, pointer: Pointer, deadline: float | None = None) -> LoadedModel:
        """Return the model behind a pointer, loading it if needed. Raises Unavailable, DeadlineExceeded."""
        servable = pointer.current or pointer.target
        if servable.loaded_model is not None:
            return servable.loaded_model
        name = f"Version {servable.version} of {servable.model}"
        if servable.failed and servable.retry_at > time.monotonic():
            raise Unavailable(f"{name} cannot be loaded: {servable.error}", retry_after=RETRY_SECONDS)
        waiter = self.loop.create_future()
        servable.waiters.append(waiter)
        self.request_load(servable, urgent=True)
        limit = self.loop.time() + LOAD_SECONDS
        try:
            async with asyncio.timeout_at(limit if deadline is None else min(limit, deadline)):
                await waiter
        except TimeoutError:
            raise DeadlineExceeded(f"{name} was not loaded in time.") from None
        if servable.loaded_model is None:
            raise Unavailable(f"{name} cannot be loaded: {servable.error}", retry_after=RETRY_SECONDS)
        return servable.loaded_model

    async def decide(
        self, prediction: Prediction, rows: InputRows, outputs: Iterable[ModelOutput]
    ) -> dict[str, Decided]:
        """Return the labels of a prediction of these rows, by output. Raises Unavailable, NotFound, Corrupt."""
        model = prediction.model
        chosen = {output: decider_of(output, model.deciders) for output in outputs}
        measured = None
        if any(decider.abstain.get("distance") is not None for decider in chosen.values()):
            measured = await self.loop.run_in_executor(self.executor, self._distances, model, rows)
        return {output.name: decide(prediction, output, decider, measured) for output, decider in chosen.items()}

    def _distances(self, model: LoadedModel, rows: InputRows) -> Any:
        """In a thread: how far rows are from the training rows. The graph is read when it is first needed."""
        if model.distance is None:
            model.distance = artifacts.onnx_session(self.blobs.read(model.manifest[DISTANCE_BLOB]["sha256"]))
        feeds, _ = model.columns.encode(model.columns.accept(rows))
        return distances(model.distance, feeds)

    async def predict(self, request: PredictionRequest, model: LoadedModel, rows: InputRows) -> Prediction:
        """Predict the rows of one request. Raises BadInput, TooLarge, TooMany, DeadlineExceeded."""
        request.check_count(rows.count)
        model.last_used = time.monotonic()
        if request.deadline is not None and request.deadline <= self.loop.time():
            self.counters.expired += 1
            raise DeadlineExceeded("The deadline had passed when the request arrived.")
        raw_rows, rows = rows, await request.off_loop(0, model.columns.accept, rows)
        request.left_out = rows.left_out
        request.model, request.predict_at = model, time.perf_counter()
        if model.runs_inline and not request.is_large and rows.count * model.seconds_per_row < INLINE_SECONDS:
            prediction = model.predict(rows)
            self.counters.sizes[model.name, model.version_text].observe(rows.count)
        else:
            batcher = self._batchers.get(model)
            if batcher is None:
                batcher = self._batchers[model] = Batcher(model, self.executor, self.counters)
            prediction = await batcher.submit(rows, request.deadline)
        request.prediction, request.predicted_at = prediction, time.perf_counter()
        warned = prediction.warnings.codes if prediction.warnings else {}
        self.counters.count_prediction(model, prediction.row_count, warned, len(rows.left_out))
        if model.sampler is not None:
            model.sampler.sample_request(rows, prediction.outputs)
        if request.entry is not None and request.entry.shadows:
            self.shadows.start(request.entry, raw_rows, prediction)
        return prediction


def _decide_as_registered(servable: Servable, facts: ModelFacts) -> None:
    """Put the decisions and levels in force that were moved last; a kept epoch keeps those of its manifest."""
    model = servable.loaded_model
    if model is None:
        return
    own = next((v for v in facts.versions if (v.version, v.artifact) == (model.version, model.artifact)), None)
    moved = None if own is None else own.decisions
    model.aim_at({} if own is None else own.error_rates)
    model.decide_by(model.manifest.get("decisions") or () if moved is None else moved)
