"""Shares of a batch: what makes several replicas of a network, each with some of the rows, train as one with all.

The replicas are processes of a gang (`shared_steps`) or GPUs of one process (`mirrored_steps`). The result is that of
one network with the same batches, except for rounding:

- The loss of a share is weighted by its part of the batch's rows, and the gradients are summed. Keras's losses are
  means over rows, so the sum is the gradient of the whole batch.
- The metrics' variables are sums over rows: at the end of a call they are summed.
- A batch with fewer rows than there are replicas is trained whole by each, at equal weights; the first alone counts it
  in the metrics.
- Batch normalisation takes mean and variance of the whole batch; dropout's masks follow from the row's place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from workers.trainer.engine import dropout


class Replicas(Protocol):
    """The replicas that train together, as one of them sees them while its step is traced."""

    size: int

    @property
    def rank(self) -> int:
        """The number of this replica, from 0."""

    def sum(self, tensor: Any) -> Any:
        """Return the sum of all replicas' tensors, bit for bit the same in each replica."""

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        """Return the sums of several tensors, such as all gradients."""
        ...

    def differentiable_sum(self, tensor: Any) -> Any:
        """`sum`, through which gradients pass: each replica's share of the gradient is summed as well."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a batch that one replica trains on."""

    rows: Any  # number of rows in the whole batch
    start: Any  # the share's rows in the table: from `start` to before `stop`
    stop: Any
    first: Any  # place of the share's first row in the batch, from 0
    weight: Any  # weight of the share's loss
    counts: Any  # whether this replica's metrics count
    holders: Any  # number of replicas that have each row

    @classmethod
    def of(cls, start: Any, stop: Any, replicas: Replicas) -> Share:
        """Return the share of this replica of the batch of the rows from `start` to `stop`."""
        rows, size, rank = stop - start, replicas.size, replicas.rank
        first, last = rows * rank // size, rows * (rank + 1) // size
        whole = rows < size
        weight = tf.where(whole, 1.0 / size, tf.cast(last - first, tf.float32) / tf.cast(rows, tf.float32))
        first, last = tf.where(whole, 0, first), tf.where(whole, rows, last)
        counts = tf.logical_or(tf.logical_not(whole), rank == 0)
        holders = tf.where(whole, tf.constant(size, tf.int64), tf.constant(1, tf.int64))
        return cls(rows, start + first, start + last, first, weight, counts, holders)


SHARE: ContextVar[Share | None] = ContextVar("share", default=None)
"""The share of the step that is being traced."""


@contextmanager
def training_on(share: Share, metrics: Sequence[Any]) -> Iterator[None]:
    """Trace a step on a share of a batch; `metrics` are the variables that it counts in."""
    before = [variable.read_value() for variable in metrics]
    token, row = SHARE.set(share), dropout.FIRST_ROW.set(share.first)
    try:
        yield
    finally:
        SHARE.reset(token)
        dropout.FIRST_ROW.reset(row)
    for variable, value in zip(metrics, before, strict=True):
        variable.assign(tf.where(share.counts, variable.read_value(), value))


def weighted(loss: Any) -> Any:
    """Return a loss weighted by its rows' share of the batch."""
    share = SHARE.get()
    return loss if share is None else loss * tf.cast(share.weight, loss.dtype)


def summed(gradients: Sequence[Any], share: Share, batch_size: int, replicas: Replicas) -> list[Any]:
    """Return the sums of gradients over all replicas.

    The gradient of an embedding is the rows of all, each in its place, repeated rows included: Keras's optimizers
    handle repeated rows in their own way.
    """
    parts: list[Any] = []
    places: list[Any] = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            parts.append(tf.cast(_in_place(gradient.values, share, batch_size), tf.float32))
            places.append(_in_place(tf.cast(gradient.indices, tf.int64), share, batch_size))
        elif gradient is not None:
            parts.append(tf.cast(gradient, tf.float32))
    sums = iter(replicas.sums(parts))
    indices = iter([replicas.sum(place) // share.holders for place in places])

    def total(gradient: Any) -> Any:
        whole = tf.cast(next(sums), gradient.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            return tf.ensure_shape(whole, gradient.shape)
        used = share.rows * (tf.shape(whole)[0] // batch_size)
        rows = tf.cast(next(indices), gradient.indices.dtype)
        whole = tf.ensure_shape(whole, [None, *gradient.values.shape[1:]])
        return tf.IndexedSlices(whole[:used], rows[:used], gradient.dense_shape)

    return [None if gradient is None else total(gradient) for gradient in gradients]


def _in_place(rows: Any, share: Share, batch_size: int) -> Any:
    """Return a share's values at their places in the whole batch, zeros elsewhere: always of one size."""
    count = tf.shape(rows)[0]
    each = count // (share.stop - share.start)
    before = share.first * each
    after = batch_size * each - before - count
    return tf.pad(rows, [[before, after], *[[0, 0]] * (rows.shape.rank - 1)])


def normalise_by_batch(model: keras.Model, replicas: Replicas) -> None:
    """Have a network's batch normalisation take mean and variance of the whole batch."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            object.__setattr__(layer, "_moments", _moments_of(layer, replicas))


def _moments_of(layer: Any, replicas: Replicas) -> Callable[[Any, Any], tuple[Any, Any]]:
    own, axes = layer._moments, list(layer._reduction_axes)

    def moments(inputs: Any, mask: Any) -> tuple[Any, Any]:
        if SHARE.get() is None:
            return own(inputs, mask)
        values = tf.cast(inputs, tf.float32)
        used = tf.ones_like(values) if mask is None else tf.cast(tf.expand_dims(mask, -1), tf.float32) + 0 * values
        sums = tf.stack([tf.reduce_sum(values * used, axes), tf.reduce_sum(used, axes)])
        total, count = tf.unstack(replicas.differentiable_sum(sums))
        count = tf.maximum(count, 1.0)
        mean = total / count
        spread = tf.square(values - tf.reshape(mean, [1] * (values.shape.rank - 1) + [-1])) * used
        variance = replicas.differentiable_sum(tf.reduce_sum(spread, axes)) / count
        return tf.cast(mean, inputs.dtype), tf.cast(variance, inputs.dtype)

    return moments
