"""Micro-batching for networks whose inference would hold up the event loop.

Nobody waits for a timer: while one inference call runs in a thread, requests gather; when it ends, as many of
them as fit go into the next call. Under light load that is one request a call, under heavy load large batches.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from fitserve.errors import DeadlineExceeded, FitserveError, TooMany
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.serving.counters import Counters
from services.predict.serving.rows import Rows
from services.predict.serving.timing import Timing

BATCH_SECONDS = 0.05  # a batch of several requests shall not take longer
LARGEST_BATCH = 1024  # rows, unless one request alone has more
QUEUE_SECONDS = 2.0  # more work than this in the queue is shed


@dataclass(eq=False, slots=True)
class Waiting:
    """One request in the queue. `deadline` is the event loop's time."""

    rows: Rows
    deadline: float | None
    answer: asyncio.Future[Prediction]
    timing: Timing


class Batcher:
    """The queue of one network. All methods but `_run` belong to the event loop's thread."""

    def __init__(self, network: Network, executor: Executor, counters: Counters) -> None:
        self.network, self.executor, self.counters = network, executor, counters
        self.loop = asyncio.get_running_loop()
        self.seconds_a_row = max(network.seconds_for_one, 1e-6)
        self._queue: deque[Waiting] = deque()
        self._queued_rows = 0
        self._busy = False

    @property
    def most_rows(self) -> int:
        """Rows that a batch may hold so that it takes no longer than BATCH_SECONDS."""
        return max(1, min(LARGEST_BATCH, int(BATCH_SECONDS / self.seconds_a_row)))

    async def submit(self, rows: Rows, deadline: float | None, timing: Timing) -> Prediction:
        """A prediction, in a batch with others. Raises TooMany, DeadlineExceeded, BadInput."""
        backlog = self._queued_rows * self.seconds_a_row
        if self._queue and backlog > QUEUE_SECONDS:
            self.counters.shed += 1
            raise TooMany("The queue of this model is full.", retry_after=max(1.0, backlog))
        waiting = Waiting(rows, deadline, self.loop.create_future(), timing)
        self._queue.append(waiting)
        self._queued_rows += rows.count
        if not self._busy:
            self._start()
        try:
            async with asyncio.timeout_at(deadline):
                return await waiting.answer
        except TimeoutError:
            self.counters.expired += 1
            raise DeadlineExceeded("No prediction was ready by the deadline.") from None

    def _start(self) -> None:
        batch: list[Waiting] = []
        count, now = 0, self.loop.time()
        while self._queue and (not batch or count + self._queue[0].rows.count <= self.most_rows):
            waiting = self._queue.popleft()
            self._queued_rows -= waiting.rows.count
            if waiting.answer.done() or (waiting.deadline is not None and waiting.deadline <= now):
                continue  # its client has gone, or gets 504
            batch.append(waiting)
            count += waiting.rows.count
        self._busy = bool(batch)
        if batch:
            self.counters.batches += 1
            self.counters.batched_rows += count
            self.counters.sizes[self.network.model, self.network.version_text].observe(count)
            work = self.loop.run_in_executor(self.executor, self._run, batch)
            work.add_done_callback(lambda done: self._finish(batch, count, now, done))

    def _run(self, several: list[Waiting]) -> list[Prediction | FitserveError]:
        """In a thread: encode each (one bad request spoils no other), infer once, split."""
        encoded = []
        answers: list[Prediction | FitserveError | None] = []
        begun = time.perf_counter()
        for waiting in several:
            try:
                encoded.append((waiting.rows.count, *self.network.columns.encode(waiting.rows)))
                answers.append(None)
            except FitserveError as error:
                answers.append(error)
        if encoded:
            feeds = {name: np.concatenate([feed[name] for _, feed, _ in encoded]) for name in encoded[0][1]}
            encoded_at = time.perf_counter()
            outputs = self.network.infer(feeds)
            inferred_at = time.perf_counter()
            for waiting in several:
                timing = waiting.timing
                timing.queue = begun - timing.predict_at
                timing.encode, timing.infer = encoded_at - begun, inferred_at - encoded_at
            start = 0
            predictions = []
            for count, _, warnings in encoded:
                part = {name: value[start : start + count] for name, value in outputs.items()}
                predictions.append(Prediction(self.network, part, warnings))
                start += count
            ready = iter(predictions)
            answers = [next(ready) if answer is None else answer for answer in answers]
        return [answer for answer in answers if answer is not None]

    def _finish(
        self, batch: list[Waiting], count: int, started: float, done: asyncio.Future[list[Prediction | FitserveError]]
    ) -> None:
        if count:
            measured = (self.loop.time() - started) / count
            self.seconds_a_row += 0.2 * (measured - self.seconds_a_row)
        failure = done.exception()
        outcomes = [failure] * len(batch) if failure else done.result()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, BaseException):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)
        self._start()
