"""The one operation behind every protocol: choose the model that answers, and predict.

Everything here runs in the event loop's thread; no prediction touches the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitserve import artifacts, db, registry
from fitserve.api_keys import Identity
from fitserve.blobs import BlobStore
from fitserve.decisions.abstain import DISTANCE_BLOB, distances
from fitserve.errors import BadInput, DeadlineExceeded, NotFound, TooMany, Unavailable
from fitserve.registry import RolloutFacts
from fitserve.settings import Settings
from services.predict.catalog.access import Access, may_use, require_use
from services.predict.catalog.catalog import OPEN, Catalog, CatalogEntry, Pointer, Selector
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, ModelOutput, Prediction
from services.predict.serving.batching import Batcher, Shadows
from services.predict.serving.counters import Counters
from services.predict.serving.deciding import Decided, decide, decider_of
from services.predict.serving.drift_monitor import DriftMonitor
from services.predict.serving.garbage_pauses import GarbagePauses
from services.predict.serving.model_updates import RETRY_SECONDS, ModelUpdates
from services.predict.serving.rollout_traffic import BASE, NEW

log = logging.getLogger(__name__)

INLINE_SECONDS = 0.001  # inference estimated to take at most this stays on the event loop
LOAD_SECONDS = 30.0  # a request waits this long for a model to be loaded
T = TypeVar("T")
MAX_IN_FLIGHT = 2048  # requests of one process at a time; more are answered with 429


class RequestState(Protocol):
    """A request as a prediction reads and annotates it; `protocol_request` implements it."""

    deadline: float | None
    is_large: bool
    left_out: dict[str, int]
    model: LoadedModel | None
    prediction: Prediction | None
    entry: CatalogEntry | None
    predict_at: float
    predicted_at: float

    def check_count(self, rows: int) -> None: ...

    async def in_thread_if_large(self, size: int, function: Callable[..., T], *arguments: Any) -> T: ...


class PredictionService:
    """The data plane of one process."""

    def __init__(self, settings: Settings, engine: Engine, blobs: BlobStore) -> None:
        self.settings, self.engine, self.blobs = settings, engine, blobs
        self.catalog = Catalog()
        self.access = Access(settings.auth)
        self.counters = Counters()
        self.garbage_pauses = GarbagePauses()
        self.drift = DriftMonitor(settings, engine, self.catalog.loaded_models)
        self.executor = ThreadPoolExecutor(4, thread_name_prefix="inference")
        self.shadows = Shadows(self.executor, self.counters, self.drift.rollouts)
        self.updates = ModelUpdates(settings, engine, blobs, self.catalog, self.access, self.counters, self.drift)
        self._batchers: dict[LoadedModel, Batcher] = {}
        self.updates.on_change.append(self._drop_batchers)

    # Lifecycle

    def start(self) -> None:
        """Start the threads. Belongs to the event loop's thread."""
        self.loop = asyncio.get_running_loop()
        self.updates.start()
        self.drift.start()

    def stop(self) -> None:
        """Stop the threads, and end a pause of garbage collection."""
        self.garbage_pauses.stop()
        self.updates.stop()
        self.drift.stop()
        self.drift.join(5)
        self.executor.shutdown(wait=False, cancel_futures=True)

    def _drop_batchers(self) -> None:
        """Drop the queues of models that are no longer in memory."""
        loaded = set(self.catalog.loaded_models())
        for model in [model for model in self._batchers if model not in loaded]:
            del self._batchers[model]

    # Model control: what the protocols change in the registry

    async def change_registry(self, change: Callable[[Session], None]) -> None:
        """Run a transaction on the registry in a thread. Raises what `change` raises."""

        def write() -> None:
            with db.transaction(self.engine) as session:
                change(session)

        await self.loop.run_in_executor(self.executor, write)

    async def wait_for_change(self, model: str, condition: Callable[[CatalogEntry], bool]) -> None:
        """Wait until this process has seen a change of a model. Raises Unavailable."""
        self.updates.poll_now()
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
            return entry.facts.wanted == loaded and not (loaded and loading)

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
        if not self.updates.polled:
            raise Unavailable("The registry has not been read yet.", retry_after=1)
        if entry is None or not identity.sees(entry.facts):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
        require_use(identity, name)
        return entry

    def visible_entries(self, identity: Identity) -> list[CatalogEntry]:
        """Return all models that this caller can see, by name."""
        entries = sorted(self.catalog.entries.values(), key=lambda entry: entry.facts.name)
        return [entry for entry in entries if identity.sees(entry.facts) and may_use(identity, entry.facts.name)]

    def find_pointer(self, entry: CatalogEntry, selector: Selector, sticky_key: str | None = None) -> Pointer:
        """Return the pointer that answers. Raises NotFound for an unknown version, BadInput for an unknown label."""
        name = entry.facts.name
        if not entry.facts.wanted:
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
        pointer = self.catalog.pick_pointer(entry, sticky_key)
        if pointer is None:
            raise NotFound(f"The model {name} has no version.")
        return pointer

    def pick_for_rollout(
        self, entry: CatalogEntry, sticky_key: str | None
    ) -> tuple[Pointer, tuple[RolloutFacts, str] | None]:
        """Return the pointer for a request without a version, and its arm of a rollout. Raises NotFound.

        If a rollout's new version cannot be loaded, that counts as a failure, and the champion answers instead.
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
        if not entry.facts.wanted or entry.default is None:
            return False
        servable = self.find_pointer(entry, selector).current
        return servable is not None and (servable.loaded_model is not None or not servable.failed)

    async def load_if_needed(self, pointer: Pointer, deadline: float | None = None) -> LoadedModel:
        """Return the model behind a pointer, loading it if needed. Raises Unavailable, DeadlineExceeded."""
        servable = pointer.current or pointer.target
        if servable.loaded_model is not None:
            return servable.loaded_model
        name = f"Version {servable.version} of {servable.model}"
        if servable.failed and servable.retry_at > time.monotonic():
            raise Unavailable(f"{name} cannot be loaded: {servable.error}", retry_after=RETRY_SECONDS)
        waiter = self.loop.create_future()
        servable.waiters.append(waiter)
        self.updates.request_load(servable, urgent=True)
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
        """Compute, in a thread, how far rows are from the training rows. The graph is loaded when first needed."""
        if model.distance is None:
            model.distance = artifacts.onnx_session(self.blobs.read(model.manifest[DISTANCE_BLOB]["sha256"]))
        feeds, _ = model.columns.encode(model.columns.without_unused_columns(rows))
        return distances(model.distance, feeds)

    async def predict(self, request: RequestState, model: LoadedModel, rows: InputRows) -> Prediction:
        """Predict the rows of one request. Raises BadInput, TooLarge, TooMany, DeadlineExceeded."""
        request.check_count(rows.count)
        model.last_used = time.monotonic()
        if request.deadline is not None and request.deadline <= self.loop.time():
            self.counters.expired += 1
            raise DeadlineExceeded("The deadline had passed when the request arrived.")
        raw_rows, rows = rows, await request.in_thread_if_large(0, model.columns.without_unused_columns, rows)
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
