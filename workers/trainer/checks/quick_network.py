"""A network that is trained for a few batches at a time, always from the same initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fitserve.spec.spec import Spec
from workers.trainer.engine import checkpoint
from workers.trainer.engine.compiled import RowTensors, StepPlan
from workers.trainer.interface import Reporter, TrainingStopped
from workers.trainer.ready_run import ReadyRun


def with_plain_rate(spec: Spec) -> Spec:
    """Return the spec with a constant learning rate and nothing that changes it, since the check sets the rate."""
    training = spec.training
    optimizer = training.optimizer.model_copy(update={"learning_rate": first_rate(spec)})
    plain = {"optimizer": optimizer, "warmup": None, "reduce_lr_on_plateau": None}
    return spec.model_copy(update={"training": training.model_copy(update=plain)})


def first_rate(spec: Spec) -> float:
    """Return the learning rate, or a schedule's first one."""
    rate = spec.training.optimizer.learning_rate
    if isinstance(rate, float):
        return rate
    arguments = rate.model_dump(mode="json")
    values = arguments.get("values")
    return float(values[0] if values else arguments["initial_learning_rate"])


class QuickNetwork:
    """A ready run's compiled network, with its initial weights to return to."""

    def __init__(self, ready: ReadyRun, report: Reporter) -> None:
        self.compiled, self.train, self._report = ready.setup.compiled, ready.rows["train"], report
        self.model = self.compiled.model
        validation = ready.rows["validation"]
        self.validation = validation if validation.count else None
        self._anything = self.validation or self.train
        self._first = checkpoint.variables(self.model)
        self._generator = np.random.default_rng(ready.spec.training.seed)

    def begin(self, rate: float) -> None:
        """Return to the first weights, with a learning rate."""
        checkpoint.restore(self.model, self._first)
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        self.model.optimizer.learning_rate = rate

    def steps(self, count: int, rows: RowTensors | None = None) -> Iterator[float]:
        """Train `count` batches; yield each one's loss before its step. Raises TrainingStopped."""
        rows = rows or self.train
        batches = -(-rows.count // self.compiled.batch_size)
        order = self._order(rows)
        for step in range(count):
            at = step % batches
            if step and at == 0:
                order = self._order(rows)
            logs, _ = self.compiled(rows, order, self._anything, StepPlan(at, at + 1, close=True))
            if step % 50 == 0:
                self._report.progress()
                if reason := self._report.stop():
                    raise TrainingStopped(reason)
            yield float(logs["loss"])

    def run(self, count: int, rows: RowTensors | None = None) -> list[float]:
        """Train `count` batches, or until the loss is not finite. Returns the losses."""
        losses: list[float] = []
        for loss in self.steps(count, rows):
            losses.append(loss)
            if not np.isfinite(loss):
                break
        return losses

    def loss(self, rows: RowTensors) -> float:
        """Return the loss on rows, without training."""
        batches = -(-rows.count // self.compiled.validation_batch_size)
        plan = StepPlan(validation_last=batches, close_validation=True)
        _, logs = self.compiled(self.train, self._order(self.train), rows, plan)
        return float(logs["loss"])

    def _order(self, rows: RowTensors) -> Any:
        return self._generator.permutation(rows.count).astype(np.int32)


def take_rows(rows: RowTensors, numbers: NDArray[np.int64]) -> RowTensors:
    """Return some of the rows."""
    return rows.map(lambda tensor: tf.gather(tensor, numbers))


def with_labels_of(rows: RowTensors, order: NDArray[np.int64]) -> RowTensors:
    """Return the rows with the labels of others."""
    return replace(rows, y=tf.nest.map_structure(lambda tensor: tf.gather(tensor, order), rows.y))


def without_inputs(rows: RowTensors) -> RowTensors:
    """Return the rows with the inputs of the first one."""
    return replace(rows, x=tf.nest.map_structure(lambda tensor: tf.repeat(tensor[:1], rows.count, axis=0), rows.x))
