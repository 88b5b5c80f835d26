"""Training and test steps of a network that several processes train together: each takes its share of every batch.

At the end of a call the metrics' variables are summed, and the leader keeps them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitserve.states import FailureCause
from workers.trainer.engine.collectives import Collectives
from workers.trainer.engine.compiled import Compiled, Logs, RowTensors, StepPlan
from workers.trainer.engine.shares import SHARE, Share, normalise_by_batch, summed, training_on, weighted
from workers.trainer.interface import TrainingFailed


class SharedCompiled(Compiled):
    """`Compiled` in one of the processes; all of them make the same calls in the same order."""

    def __init__(
        self, group: Collectives, model: keras.Model, train: RowTensors, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(model, train, *arguments, **options)
        # Some metrics create their variables only when first used.
        model.test_step(self.expanded(train.map(lambda t: t[:1]).as_tuple()))
        model.reset_metrics()
        self.group = group
        self.leaving = tf.Variable(0.0)  # 1 if this process wants to leave
        self._leaving = tf.Variable(0.0)  # number of processes that wanted to leave at the end of the last call
        group.waited = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        self._waits = tf.Variable(tf.zeros([group.size], tf.float64))  # seconds that each process has waited so far
        self._waits_before = np.zeros(group.size)
        self.waits = np.zeros(group.size)  # seconds of waiting in all calls but those that were traced, and
        self.seconds = 0.0  # how long these calls took
        self._alone = False
        self._executor = contextlib.nullcontext  # on one thread, TensorFlow runs no collective inside a loop
        _share_gradients(self.model.optimizer, self.batch_size, group)
        normalise_by_batch(self.model, group)

    def go_alone(self) -> None:
        """Compute whole batches from now on, because the other processes have stopped making calls."""
        self._alone, self._traced = True, None

    def someone_leaves(self) -> bool:
        """Return whether any process wanted to leave at the end of the last call."""
        return float(self._leaving.numpy()) > 0

    def __call__(self, train: RowTensors, order: Any, validation: RowTensors, plan: StepPlan) -> tuple[Logs, Logs]:
        """Run `plan`, on this process's share of each batch. The logs are those of all rows. Raises GangBroken."""
        if self._alone:
            return super().__call__(train, order, validation, plan)
        with self.group.failing_together():
            began_at, traced = time.perf_counter(), self._traced is not None
            logs = super().__call__(train, order, validation, plan)
        waits = self._waits.numpy()
        if traced:  # otherwise the processes have waited for each other's traces
            self.seconds += time.perf_counter() - began_at
            self.waits += waits - self._waits_before
        self._waits_before = waits
        return logs

    def _fall_back(self, reason: str) -> None:
        message = f"Several workers cannot train this network together: {reason}"
        raise TrainingFailed(FailureCause.internal_error, message)

    def _run_step(self, step: Callable[[Any], Any], start: Any, stop: Any, rows: Callable[[Any, Any], Any]) -> None:
        if self._alone:
            super()._run_step(step, start, stop, rows)
            return
        share = Share.of(start, stop, self.group)
        with training_on(share, [variable.value for variable in self.model.metrics_variables]):
            super()._run_step(step, share.start, share.stop, rows)

    def _results(self) -> Any:
        if self._alone:
            return super()._results()
        metrics = [variable.value for variable in self.model.metrics_variables]
        waited = self.group.waited * tf.one_hot(self.group.rank, self.group.size, dtype=tf.float64)
        every = [*metrics, self.leaving, waited]
        parts = [tf.reshape(tf.cast(variable, tf.float64), [-1]) for variable in every]
        totals = tf.split(self.group.sum(tf.concat(parts, 0)), [part.shape[0] for part in parts])
        for variable, value in zip([*metrics, self._leaving, self._waits], totals, strict=True):
            variable.assign(tf.reshape(tf.cast(value, variable.dtype), variable.shape))
        results = super()._results()
        if not self.group.leads:
            with tf.control_dependencies([results]):
                for variable in metrics:
                    variable.assign(tf.zeros_like(variable))
        return results


def _share_gradients(optimizer: keras.optimizers.Optimizer, batch_size: int, group: Collectives) -> None:
    """Have an optimizer apply the sum of all processes' gradients; clipping, decay and averaging work as usual."""
    apply, scale_loss = optimizer.apply, optimizer.scale_loss

    def apply_sum(gradients: Sequence[Any], variables: Sequence[Any] | None = None) -> None:
        share = SHARE.get()
        apply(gradients if share is None else summed(gradients, share, batch_size, group), variables)

    object.__setattr__(optimizer, "apply", apply_sum)
    object.__setattr__(optimizer, "scale_loss", lambda loss: weighted(scale_loss(loss)))
