"""Training and test steps of a network that several processes train together: each takes its share of every batch.

The result is that of one process with the same batches, except for rounding:

- The loss of a share is weighted by its part of the batch's rows, and the gradients are summed. Keras's losses are
  means over rows, so the sum is the gradient of the whole batch.
- The metrics' variables are sums over rows: at the end of a call they are summed, and the leader keeps them.
- A batch with fewer rows than there are processes is trained whole by each, at equal weights; the leader alone counts
  it in the metrics.
- Batch normalisation takes mean and variance of the whole batch; dropout's masks follow from the row's place in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from fitserve.states import FailureCause
from workers.trainer.engine import dropout
from workers.trainer.engine.collectives import Collectives
from workers.trainer.engine.compiled import Compiled, Logs, RowTensors, StepPlan
from workers.trainer.interface import TrainingFailed

FUSED_BYTES = 2**20  # gradients smaller than this are exchanged together; a larger one alone, without a copy


@dataclass(frozen=True, slots=True)
class Share:
    """A process's rows of a batch of `rows`: from `start` to `stop`; the first has the number `first` in the batch."""

    rows: Any

    start: Any
    stop: Any
    first: Any
    weight: Any  # weight of the share's loss
    counts: Any  # whether this process's metrics count
    holders: Any  # number of processes that have each row


_SHARE: ContextVar[Share | None] = ContextVar("share", default=None)  # share of the step being traced


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
        self._alone = False
        self._executor = contextlib.nullcontext  # on one thread, TensorFlow runs no collective inside a loop
        _share_gradients(self.model.optimizer, self.batch_size, group)
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                object.__setattr__(layer, "_moments", _moments_of(layer, group))

    def go_alone(self) -> None:
        """Compute whole batches from now on, because the other processes have stopped making calls."""
        self._alone, self._call = True, None

    def someone_leaves(self) -> bool:
        """Return whether any process wanted to leave at the end of the last call."""
        return float(self._leaving.numpy()) > 0

    def __call__(self, train: RowTensors, order: Any, validation: RowTensors, plan: StepPlan) -> tuple[Logs, Logs]:
        """Run `plan`, on this process's share of each batch. The logs are those of all rows. Raises GangBroken."""
        with contextlib.nullcontext() if self._alone else self.group.failing_together():
            return super().__call__(train, order, validation, plan)

    def _fall_back(self, reason: str) -> None:
        message = f"Several workers cannot train this network together: {reason}"
        raise TrainingFailed(FailureCause.internal_error, message)

    def _run_step(self, step: Callable[[Any], Any], start: Any, stop: Any, rows: Callable[[Any, Any], Any]) -> None:
        if self._alone:
            super()._run_step(step, start, stop, rows)
            return
        share = self._share(start, stop)
        metrics = [variable.value for variable in self.model.metrics_variables]
        before = [variable.read_value() for variable in metrics]
        token, row = _SHARE.set(share), dropout.FIRST_ROW.set(share.first)
        try:
            super()._run_step(step, share.start, share.stop, rows)
        finally:
            _SHARE.reset(token)
            dropout.FIRST_ROW.reset(row)
        for variable, value in zip(metrics, before, strict=True):
            variable.assign(tf.where(share.counts, variable.read_value(), value))

    def _share(self, start: Any, stop: Any) -> Share:
        rows, size, rank = stop - start, self.group.size, self.group.rank
        first, last = rows * rank // size, rows * (rank + 1) // size
        whole = rows < size
        weight = tf.where(whole, 1.0 / size, tf.cast(last - first, tf.float32) / tf.cast(rows, tf.float32))
        first, last = tf.where(whole, 0, first), tf.where(whole, rows, last)
        counts = tf.logical_or(tf.logical_not(whole), rank == 0)
        holders = tf.where(whole, tf.constant(size, tf.int64), tf.constant(1, tf.int64))
        return Share(rows, start + first, start + last, first, weight, counts, holders)

    def _results(self) -> Any:
        if self._alone:
            return super()._results()
        metrics = [variable.value for variable in self.model.metrics_variables]
        parts = [tf.reshape(tf.cast(variable, tf.float64), [-1]) for variable in [*metrics, self.leaving]]
        summed = tf.split(self.group.sum(tf.concat(parts, 0)), [part.shape[0] for part in parts])
        for variable, value in zip([*metrics, self._leaving], summed, strict=True):
            variable.assign(tf.reshape(tf.cast(value, variable.dtype), variable.shape))
        results = super()._results()
        if not self.group.leads:
            with tf.control_dependencies([results]):
                for variable in metrics:
                    variable.assign(tf.zeros_like(variable))
        return results


def shared_weight(loss: Any) -> Any:
    """Return a loss weighted by its rows' share of the batch."""
    share = _SHARE.get()
    return loss if share is None else loss * tf.cast(share.weight, loss.dtype)


def _share_gradients(optimizer: keras.optimizers.Optimizer, batch_size: int, group: Collectives) -> None:
    """Have an optimizer apply the sum of all processes' gradients; clipping, decay and averaging work as usual."""
    apply, scale_loss = optimizer.apply, optimizer.scale_loss

    def apply_sum(gradients: Sequence[Any], variables: Sequence[Any] | None = None) -> None:
        share = _SHARE.get()
        apply(gradients if share is None else _summed(gradients, share, batch_size, group), variables)

    object.__setattr__(optimizer, "apply", apply_sum)
    object.__setattr__(optimizer, "scale_loss", lambda loss: shared_weight(scale_loss(loss)))


def _summed(gradients: Sequence[Any], share: Share, batch_size: int, group: Collectives) -> list[Any]:
    """Return the sums of gradients over all processes.

    A large gradient is exchanged as soon as it is known, while those of earlier layers are computed. The gradient of an
    embedding is the rows of all, each in its place, repeated rows included: Keras's optimizers handle repeated rows in
    their own way.
    """
    parts: list[Any] = []
    places: list[Any] = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            parts.append(tf.cast(_in_place(gradient.values, share, batch_size), tf.float32))
            places.append(_in_place(tf.cast(gradient.indices, tf.int64), share, batch_size))
        elif gradient is not None:
            parts.append(tf.cast(gradient, tf.float32))
    sums = iter(_exchanged(parts, group))
    indices = iter([group.sum(place) // share.holders for place in places])

    def total(gradient: Any) -> Any:
        whole = tf.cast(next(sums), gradient.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            return tf.ensure_shape(whole, gradient.shape)
        used = share.rows * (tf.shape(whole)[0] // batch_size)
        rows = tf.cast(next(indices), gradient.indices.dtype)
        whole = tf.ensure_shape(whole, [None, *gradient.values.shape[1:]])
        return tf.IndexedSlices(whole[:used], rows[:used], gradient.dense_shape)

    return [None if gradient is None else total(gradient) for gradient in gradients]


def _exchanged(parts: Sequence[Any], group: Collectives) -> list[Any]:
    """Sum tensors over all processes: each large one by itself, from the last to the first, then the small ones.

    One exchange at a time, in one order: on GPUs, NCCL needs that.
    """
    sums: dict[int, Any] = {}
    for index in reversed(range(len(parts))):
        size = parts[index].shape.num_elements()
        if size is not None and 4 * size >= FUSED_BYTES:
            with tf.control_dependencies(list(sums.values())):
                sums[index] = group.sum(parts[index])
    small = [index for index in range(len(parts)) if index not in sums]
    if small:
        with tf.control_dependencies(list(sums.values())):
            flat = group.sum(tf.concat([tf.reshape(parts[index], [-1]) for index in small], 0))
        pieces = tf.split(flat, tf.stack([tf.size(parts[index]) for index in small]), num=len(small))
        for index, piece in zip(small, pieces, strict=True):
            sums[index] = tf.reshape(piece, tf.shape(parts[index]))
    return [sums[index] for index in range(len(parts))]


def _in_place(rows: Any, share: Share, batch_size: int) -> Any:
    """Return a share's values at their places in the whole batch, zeros elsewhere: always of one size."""
    count = tf.shape(rows)[0]
    each = count // (share.stop - share.start)
    before = share.first * each
    after = batch_size * each - before - count
    return tf.pad(rows, [[before, after], *[[0, 0]] * (rows.shape.rank - 1)])


def _moments_of(layer: Any, group: Collectives) -> Callable[[Any, Any], tuple[Any, Any]]:
    own, axes = layer._moments, list(layer._reduction_axes)

    def moments(inputs: Any, mask: Any) -> tuple[Any, Any]:
        if _SHARE.get() is None:
            return own(inputs, mask)
        values = tf.cast(inputs, tf.float32)
        used = tf.ones_like(values) if mask is None else tf.cast(tf.expand_dims(mask, -1), tf.float32) + 0 * values
        sums = tf.stack([tf.reduce_sum(values * used, axes), tf.reduce_sum(used, axes)])
        total, count = tf.unstack(group.differentiable_sum(sums))
        count = tf.maximum(count, 1.0)
        mean = total / count
        spread = tf.square(values - tf.reshape(mean, [1] * (values.shape.rank - 1) + [-1])) * used
        variance = group.differentiable_sum(tf.reduce_sum(spread, axes)) / count
        return tf.cast(mean, inputs.dtype), tf.cast(variance, inputs.dtype)

    return moments
