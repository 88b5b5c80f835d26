"""Inference off the event loop: micro-batches of slower models, and shadow traffic.

A batch waits for no timer: requests gather while an inference call runs in a thread; when it ends, as many as fit go
into the next call. Under light load each call has one request, under heavy load batches are large.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from fitserve.encoding.row_warnings import RowWarnings
from fitserve.errors import DeadlineExceeded, FitserveError, TooMany
from services.predict.catalog.catalog import CatalogEntry, Pointer
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.serving.counters import Counters
from services.predict.serving.rollout_traffic import RolloutTraffic, StepTraffic

BATCH_SECONDS = 0.05  # a batch of several requests is limited to about this much time
MAX_BATCH_ROWS = 1024  # most rows of a batch, unless a single request has more
QUEUE_SECONDS = 2.0  # requests are refused while the queue holds more work than this
MAX_SHADOWS = 64  # shadow predictions at a time; more are dropped


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """One request in the queue. `deadline` is the event loop's time, `queued_at` is `time.perf_counter`'s."""

    rows: InputRows
    deadline: float | None
    queued_at: float
    answer: asyncio.Future[Prediction]


class Batcher:
    """The queue of one model. All methods but `_infer_batch` belong to the event loop's thread."""

    def __init__(self, model: LoadedModel, executor: Executor, counters: Counters) -> None:
        self.model, self.executor, self.counters = model, executor, counters
        self.loop = asyncio.get_running_loop()
        self.seconds_per_row = max(model.seconds_per_row, 1e-6)
        self._queue: deque[QueuedRequest] = deque()
        self._queued_rows = 0
        self._running = False

    async def submit(self, rows: InputRows, deadline: float | None) -> Prediction:
        """Predict in a batch with other requests. Raises TooMany, DeadlineExceeded, BadInput."""
        backlog = self._queued_rows * self.seconds_per_row
        if self._queue and backlog > QUEUE_SECONDS:
            self.counters.shed += 1
            raise TooMany("The queue of this model is full.", retry_after=max(1.0, backlog))
        request = QueuedRequest(rows, deadline, time.perf_counter(), self.loop.create_future())
        self._queue.append(request)
        self._queued_rows += rows.count
        if not self._running:
            self._start_batch()
        try:
            async with asyncio.timeout_at(deadline):
                return await request.answer
        except TimeoutError:
            self.counters.expired += 1
            raise DeadlineExceeded("No prediction was ready by the deadline.") from None

    def _start_batch(self) -> None:
        most_rows = max(1, min(MAX_BATCH_ROWS, int(BATCH_SECONDS / self.seconds_per_row)))
        batch: list[QueuedRequest] = []
        count, now = 0, self.loop.time()
        while self._queue and (not batch or count + self._queue[0].rows.count <= most_rows):
            request = self._queue.popleft()
            self._queued_rows -= request.rows.count
            if request.answer.done() or (request.deadline is not None and request.deadline <= now):
                continue  # its client has disconnected, or has got 504
            batch.append(request)
            count += request.rows.count
        self._running = bool(batch)
        if batch:
            self.counters.batches += 1
            self.counters.batched_rows += count
            self.counters.sizes[self.model.name, self.model.version_text].observe(count)
            work = self.loop.run_in_executor(self.executor, self._infer_batch, batch)
            work.add_done_callback(lambda done: self._finish_batch(batch, count, now, done))

    def _infer_batch(self, batch: list[QueuedRequest]) -> list[Prediction | FitserveError]:
        """Encode each request (an error fails only that one), infer once, split the outputs. Runs in a thread."""
        started = time.perf_counter()
        encoded: list[tuple[QueuedRequest, dict[str, np.ndarray], RowWarnings | None]] = []
        outcomes: dict[QueuedRequest, Prediction | FitserveError] = {}
        for request in batch:
            try:
                encoded.append((request, *self.model.columns.encode(request.rows)))
            except FitserveError as error:
                outcomes[request] = error
        if encoded:
            feeds = {name: np.concatenate([feed[name] for _, feed, _ in encoded]) for name in encoded[0][1]}
            encoded_at = time.perf_counter()
            outputs = self.model.infer(feeds)
            encode_seconds, infer_seconds = encoded_at - started, time.perf_counter() - encoded_at
            start = 0
            for request, own, warnings in encoded:
                part = {name: value[start : start + request.rows.count] for name, value in outputs.items()}
                start += request.rows.count
                waited = started - request.queued_at
                outcomes[request] = self.model.prediction(
                    part, warnings, request.rows, own, encode_seconds, infer_seconds, waited
                )
        return [outcomes[request] for request in batch]

    def _finish_batch(
        self,
        batch: list[QueuedRequest],
        count: int,
        started: float,
        done: asyncio.Future[list[Prediction | FitserveError]],
    ) -> None:
        if count:  # a moving average of the time per row
            measured = (self.loop.time() - started) / count
            self.seconds_per_row += 0.2 * (measured - self.seconds_per_row)
        failure = done.exception()
        outcomes = [failure] * len(batch) if failure else done.result()
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.answer.done():
                continue
            if isinstance(outcome, BaseException):
                request.answer.set_exception(outcome)
            else:
                request.answer.set_result(outcome)
        self._start_batch()


class Shadows:
    """Shadow models: they predict the same rows as the model that answers; only the differences are recorded."""

    def __init__(self, executor: Executor, counters: Counters, rollouts: RolloutTraffic) -> None:
        self._executor, self._counters, self._rollouts = executor, counters, rollouts
        self._tasks: set[asyncio.Future[None]] = set()

    def start(self, entry: CatalogEntry, rows: InputRows, answered: Prediction) -> None:
        """Have the entry's shadows predict rows that were just answered. Returns at once."""
        for pointer in entry.shadows:
            model = pointer.current.loaded_model if pointer.current else None
            key = (entry.facts.name, pointer.label or "")
            if model is None or model is answered.model or len(self._tasks) >= MAX_SHADOWS:
                self._counters.shadow[*key, "dropped"] += 1
                continue
            step = self._step_of(entry, pointer, answered)
            task = asyncio.ensure_future(self._compare(model, rows, answered, key, step))
            self._tasks.add(task)  # the event loop itself holds only weak references to tasks
            task.add_done_callback(self._tasks.discard)

    def _step_of(self, entry: CatalogEntry, pointer: Pointer, answered: Prediction) -> StepTraffic | None:
        """Return the rollout step that this shadow belongs to, if the rollout's previous version gave the answer."""
        rollout = entry.facts.rollout
        if rollout is None or pointer.label != rollout.label or answered.model.version != rollout.base:
            return None
        return self._rollouts.of(rollout, answered.model)

    async def _compare(
        self,
        model: LoadedModel,
        rows: InputRows,
        answered: Prediction,
        key: tuple[str, str],
        step: StepTraffic | None,
    ) -> None:
        counters, shadow, disagreeing = self._counters, None, 0.0

        def predict() -> tuple[Prediction, float]:
            made = model.predict(model.columns.without_unused_columns(rows))
            return made, step.disagreeing(answered, made) if step is not None else 0.0

        try:
            shadow, disagreeing = await asyncio.get_running_loop().run_in_executor(self._executor, predict)
            gaps = [
                float(np.abs(values - shadow.outputs[name]).max())
                for name, values in answered.outputs.items()
                if name in shadow.outputs
            ]
            counters.shadow_difference[key] = max([*gaps, counters.shadow_difference.get(key, 0.0)])
            counters.shadow[*key, "answered"] += 1
        except Exception:
            counters.shadow[*key, "failed"] += 1
        if step is not None:
            step.compare(answered, shadow, disagreeing)
