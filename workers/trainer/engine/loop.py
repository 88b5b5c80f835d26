"""The training loop: `Model.fit`'s results in a fraction of its time.

`fit` returns from compiled code after every batch. This loop returns only at the end of an epoch, every half second
in a long one, or after each batch if a callback asks for batches. The steps are Keras's own `train_step` and
`test_step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from workers.trainer.engine import checkpoint
from workers.trainer.engine.compiled import Compiled, Logs, RowTensors, StepPlan

BetweenCalls = Callable[[int, int], None]
"""Called between two compiled calls with the epoch and the step (from 0) that come next."""

Announce = Callable[[int, int, int, StepPlan], None]
"""Called before a compiled call with its epoch, its training and its validation block (from 0; -1: none), its plan."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in memory and the order to take them in. Batches never cross a block's end."""

    rows: RowTensors
    order: NDArray[np.int32]
    last: bool  # whether this is the epoch's last block


class Feed(Protocol):
    """The rows of an epoch, block by block."""

    rows: int
    resident: bool  # an epoch is one block, already in memory

    def sample(self) -> RowTensors:
        """Return a few rows, for their structure, dtypes and shapes."""

    def blocks(self, epoch: int) -> Iterator[Block]:
        """Yield the blocks of epoch `epoch`, counted from 0: always the same for the same epoch."""
        ...


@dataclass(slots=True)
class Position:
    """The loop's position, as a checkpoint stores it. Counted from 0."""

    epoch: int = 0
    step: int = 0
    # Once only the epoch's validation is left: what its training came to, and the random generators' states, because
    # recurrent layers draw numbers in validation too, and it is repeated as a whole.
    logs: Logs = field(default_factory=dict)
    random_states: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(slots=True)
class Loop:
    """Trains `compiled.model` for `epochs` epochs on `train`, as `Model.fit` would.

    `callbacks` are Keras callbacks. `between_calls` may raise to stop the training.
    """

    compiled: Compiled
    train: Feed
    validation: Feed | None
    epochs: int
    callbacks: Sequence[keras.callbacks.Callback] = ()
    validation_freq: int = 1
    between_calls: BetweenCalls = lambda epoch, step: None
    position: Position = field(default_factory=Position)
    pace: Pace = field(default_factory=lambda: Pace())
    on_begin: Callable[[], None] = lambda: None  # called after the callbacks' `on_train_begin`, which resets them
    # Announces each call to processes that make the same calls.
    announce: Announce = lambda epoch, block, validation_block, plan: None

    def run(self) -> keras.callbacks.History:
        """Train to the last epoch, or until a callback sets `stop_training`. Returns Keras's History."""
        model = self.compiled.model
        history = next((c for c in self.callbacks if isinstance(c, keras.callbacks.History)), None)
        history = history or keras.callbacks.History()
        own = [c for c in self.callbacks if c is not history]
        callbacks = keras.callbacks.CallbackList(
            [*own, history], model=model, epochs=self.epochs, steps=-(-self.train.rows // self.compiled.batch_size)
        )
        model.stop_training = False
        callbacks.on_train_begin()
        self.on_begin()
        logs: Logs = {}
        if not self.position.step:
            model.reset_metrics()  # afterwards each epoch's last call resets them for the next one
        for epoch in range(self.position.epoch, self.epochs):
            if model.stop_training:  # resumed after its last epoch
                break
            callbacks.on_epoch_begin(epoch)
            logs = self._epoch(epoch, callbacks)
            self.position.epoch, self.position.step = epoch + 1, 0
            self.position.logs, self.position.random_states = {}, {}
            callbacks.on_epoch_end(epoch, logs)
            self.between_calls(epoch + 1, 0)
            if model.stop_training:
                break
        if self.epochs:
            model.optimizer.finalize_variable_values(model.trainable_weights)
        callbacks.on_train_end(logs)
        return history

    def evaluate(self, feed: Feed, callbacks: keras.callbacks.CallbackList | None = None) -> Logs:
        """Return loss and metrics on `feed`, as `Model.evaluate` gives them."""
        if callbacks:
            callbacks.on_test_begin()
        self.compiled.model.reset_metrics()
        logs = self._test(feed, callbacks)
        if callbacks:
            callbacks.on_test_end(logs)
        return logs

    def _epoch(self, epoch: int, callbacks: keras.callbacks.CallbackList) -> Logs:
        each_batch = _overrides(callbacks, "batch_begin", "batch_end", "train_batch_begin", "train_batch_end")
        validate = self.validation is not None and (epoch + 1) % self.validation_freq == 0
        # Short validation data in memory join the last training call, unless a callback acts in between.
        hooked = each_batch or _overrides(callbacks, "test_begin", "test_batch_begin", "test_batch_end", "test_end")
        block = self._short_validation() if validate and not hooked else None
        logs = self.position.logs
        validation_logs: Logs | None = None
        unused = (self.validation or self.train).sample()
        for number, rows, order, plan in self._plans(epoch, each_batch):
            if each_batch:
                callbacks.on_train_batch_begin(plan.first)
            if plan.close and block is not None:
                plan = StepPlan(plan.first, plan.last, True, 0, self._steps(block, validation=True), True)
                self.announce(epoch, number, 0, plan)
                logs, validation_logs = self._timed(plan, rows, order, block.rows)
            else:
                self.announce(epoch, number, -1, plan)
                logs, _ = self._timed(plan, rows, order, unused)
            if each_batch:
                callbacks.on_train_batch_end(plan.first, logs)
                if self.compiled.model.stop_training:
                    break
            if not plan.close:
                self.between_calls(epoch, self.position.step)
        if validate and validation_logs is None:
            self.position.logs, self.position.random_states = logs, checkpoint.random_states(self.compiled.model)
            validation_logs = self.evaluate(self.validation, callbacks)  # type: ignore[arg-type]
        return {**logs, **{f"val_{name}": value for name, value in (validation_logs or {}).items()}}

    def _plans(self, epoch: int, each_batch: bool) -> Iterator[tuple[int, RowTensors, Any, StepPlan]]:
        """Yield the training calls of an epoch, with their blocks' numbers, from `position.step` on, advancing it."""
        passed = 0
        for number, block in enumerate(self.train.blocks(epoch)):
            steps = self._steps(block)
            first, order = max(0, self.position.step - passed), tf.constant(block.order)
            while first < steps:
                last = min(steps, first + (1 if each_batch else self.pace.steps))
                self.position.step = passed + last
                yield number, block.rows, order, StepPlan(first, last, block.last and last == steps)
                first = last
            passed += steps

    def _test(self, feed: Feed, callbacks: keras.callbacks.CallbackList | None) -> Logs:
        each_batch = callbacks is not None and _overrides(callbacks, "test_batch_begin", "test_batch_end")
        unused, order, done = self.train.sample(), tf.zeros(0, tf.int32), 0
        logs: Logs = {}
        for number, block in enumerate(feed.blocks(0)):
            first, steps = 0, self._steps(block, validation=True)
            while first < steps:
                last = min(steps, first + (1 if each_batch else self.pace.steps))
                if each_batch and callbacks:
                    callbacks.on_test_batch_begin(done)
                plan = StepPlan(0, 0, False, first, last, block.last and last == steps)
                self.announce(self.position.epoch, -1, number, plan)
                _, logs = self._timed(plan, unused, order, block.rows)
                if each_batch and callbacks:
                    callbacks.on_test_batch_end(done, logs)
                done, first = done + last - first, last
                self.between_calls(self.position.epoch, self.position.step)
        return logs

    def _timed(self, plan: StepPlan, rows: RowTensors, order: Any, validation: RowTensors) -> tuple[Logs, Logs]:
        begun = time.perf_counter()
        logs = self.compiled(rows, order, validation, plan)
        self.pace.record_call(
            plan.last - plan.first + plan.validation_last - plan.validation_first, time.perf_counter() - begun
        )
        return logs

    def _steps(self, block: Block, validation: bool = False) -> int:
        size = self.compiled.validation_batch_size if validation else self.compiled.batch_size
        return -(-len(block.order) // size)

    def _short_validation(self) -> Block | None:
        if self.validation is None or not self.validation.resident:
            return None
        block = next(iter(self.validation.blocks(0)))
        return block if self._steps(block, validation=True) <= self.pace.steps else None


class Pace:
    """The number of steps per call: about half a second's worth, measured from earlier calls."""

    def __init__(self, seconds: float = 0.5, steps: int = 16) -> None:
        self.seconds, self.steps = seconds, steps
        self._first = True

    def record_call(self, steps: int, seconds: float) -> None:
        """Learn from a call. The first one is ignored, because TensorFlow optimises the graph in it."""
        if self._first or not steps:
            self._first = False
            return
        fitting = int(steps * self.seconds / max(seconds, 1e-9))
        self.steps = max(1, min(fitting, 4 * self.steps))


def _overrides(callbacks: keras.callbacks.CallbackList, *hooks: str) -> bool:
    """Return whether a callback overrides any of these hooks."""
    return any(
        getattr(type(callback), f"on_{hook}") is not getattr(keras.callbacks.Callback, f"on_{hook}")
        for callback in callbacks.callbacks
        for hook in hooks
    )
