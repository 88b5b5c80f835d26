"""A network's passes in two halves of the batch, which two threads compute side by side.

To divide every single operation among threads is slow: each of them waits for a thread to wake up, and TensorFlow's
products of a few million multiply-adds run on one thread anyway. Two chains of operations, one for each half of a
batch's rows, keep two cores busy from the inputs to the outputs and back. Layers that compute each row by itself are
applied to each half, as are the losses of `loss_kernels`; batch normalisation takes the mean and the variance of both;
all other layers and losses, metrics and updates work on the whole batch. The results are those of whole batches but for
rounding, because a gradient is the sum of two halves' sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.device import is_divided_among_threads
from workers.trainer.engine.dropout import ByElement
from workers.trainer.engine.executors import work
from workers.trainer.engine.network import functional_of, nodes_of

L = keras.layers
# Measured on two cores. Halves gain where a step has more than HALVED_STEP multiply-adds and at least USES for each
# weight, since the halves' gradients have to be added; LARGE_USES from LARGE weights on, which no cache holds.
HALVED_STEP = 3e7
USES, LARGE_USES, LARGE = 72, 300, 1 << 23
MOST_JOINED = 1 << 18  # numbers of a layer's output for the whole batch: to join and to split more takes too long
# Layers that compute with all rows of a batch, or have a state that each call changes.
_OF_THE_BATCH = (L.BatchNormalization, L.SpectralNormalization, keras.Model)


@dataclass(frozen=True, slots=True)
class Halves:
    """A tensor's rows in two parts; `whole` where it was not computed in parts.

    Neither is empty, because several of TensorFlow's kernels fail without rows, or return what was in memory: a single
    row is in both, and `middle`, how many rows of the first one count, is 0.
    """

    first: Any
    second: Any
    middle: Any
    whole: Any = None

    @classmethod
    def of(cls, whole: Any) -> Halves:
        """Return the halves that a tensor was joined from, or split it in the middle of its rows."""
        known: Halves | None = halves_of(whole)
        if known is not None:
            return known
        middle = tf.shape(whole)[0] // 2
        return cls(rows_between(whole, last=tf.maximum(middle, 1)), rows_between(whole, first=middle), middle, whole)

    def map(self, function: Callable[[Any], Any]) -> Halves:
        """Apply a function to both parts."""
        return Halves(function(self.first), function(self.second), self.middle)

    def joined(self) -> Any:
        """Return all rows as one tensor, which remembers its halves."""
        if self.whole is not None:
            return self.whole
        joined = tf.concat([rows_between(self.first, last=self.middle), self.second], 0)
        for mark in ("_keras_mask", "_keras_logits"):  # what Keras notes on a tensor for layers and losses
            first, second = getattr(self.first, mark, None), getattr(self.second, mark, None)
            if first is not None and second is not None:
                setattr(joined, mark, tf.concat([rows_between(first, last=self.middle), second], 0))
        joined._halves = self
        return joined


def halves_of(tensor: Any) -> Halves | None:
    """Return the halves that a tensor was joined from; None for others."""
    return getattr(tensor, "_halves", None)


def rows_between(tensor: Any, first: Any = None, last: Any = None) -> Any:
    """Return the rows of a tensor from `first` to `last` (exclusive), both scalars. Shorter to trace than a slice."""
    begin, end = ([0] if place is None else tf.reshape(place, [1]) for place in (first, last))
    return tf.strided_slice(tensor, begin, end, [1], begin_mask=first is None, end_mask=last is None)


def pays(model: keras.Model, batch_size: int) -> bool:
    """Return whether halves of its batches are worthwhile for a network: two threads, and steps that are not short."""
    divisible = hasattr(functional_of(model), "_nodes_by_depth")
    step = work(model, batch_size)
    if not is_divided_among_threads() or not divisible or batch_size < 2 or step <= HALVED_STEP:
        return False
    dense = [layer for layer in model.layers if not isinstance(layer, L.Embedding)]  # an Embedding's gradient is sparse
    weights = sum(math.prod(variable.shape) for layer in dense for variable in layer.trainable_variables)
    if step < weights * (USES if weights < LARGE else LARGE_USES):
        return False
    joined = (node for node in nodes_of(model) if not _is_divided(node.operation))
    tensors = (tensor for node in joined for tensor in node.outputs)
    return all(batch_size * math.prod(size or 1 for size in tensor.shape[1:]) <= MOST_JOINED for tensor in tensors)


@contextmanager
def in_halves(model: keras.Model) -> Iterator[None]:
    """Trace the passes of a Functional or Sequential model in halves."""
    functional = functional_of(model)
    object.__setattr__(functional, "call", _call_of(functional))
    try:
        yield
    finally:
        object.__delattr__(functional, "call")


def _call_of(functional: Any) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        given = functional._standardize_inputs(inputs)
        tensors = {id(own): Halves.of(x) for own, x in zip(functional.inputs, given, strict=True)}
        for node in nodes_of(functional):
            arguments, named = node.arguments.fill_in(tensors)
            if "training" in getattr(node.operation, "_call_context_args", ()):
                named["training"] = training
            results = _apply(node.operation, arguments, named)
            for own, result in zip(node.outputs, results, strict=True):
                tensors[id(own)] = result
        outputs = [tensors[id(own)].joined() for own in functional.outputs]
        return keras.tree.pack_sequence_as(functional._outputs_struct, outputs)

    return call


def _apply(operation: Any, arguments: Any, named: dict[str, Any]) -> list[Halves]:
    """Apply an operation of a network to the halves of its arguments. Returns the halves of its outputs, in order."""
    training = bool(named.get("training"))
    if isinstance(by_element := vars(operation).get("call"), ByElement):
        (x,) = arguments
        first, second = by_element.parts([x.first, x.second], training, [0, x.middle])
        return [Halves(first, second, x.middle)]
    if _is_by_row(operation, training):
        halves = []
        for half in ("first", "second"):
            given, options = keras.tree.map_structure(partial(_half, half), (arguments, named))
            halves.append(keras.tree.flatten(operation(*given, **options)))
        middle = next(one.middle for one in keras.tree.flatten((arguments, named)) if isinstance(one, Halves))
        return [Halves(first, second, middle) for first, second in zip(*halves, strict=True)]
    if _is_normalisation(operation) and named.get("mask") is None:
        return [_normalised(operation, arguments[0])]
    given, options = keras.tree.map_structure(_joined, (arguments, named))
    return [Halves.of(whole) for whole in keras.tree.flatten(operation(*given, **options))]


def _is_divided(operation: Any) -> bool:
    """Return whether training steps apply an operation to each half."""
    by_element = isinstance(vars(operation).get("call"), ByElement)
    return by_element or _is_normalisation(operation) or _is_by_row(operation, training=True)


def _half(half: str, value: Any) -> Any:
    return getattr(value, half) if isinstance(value, Halves) else value


def _joined(value: Any) -> Any:
    return value.joined() if isinstance(value, Halves) else value


def _is_by_row(operation: Any, training: bool) -> bool:
    """Return whether each row of a layer's outputs follows from that row alone, without random numbers."""
    if not isinstance(operation, L.Layer) or "call" in vars(operation):
        return False
    if _is_normalisation(operation):
        return not (training and operation.trainable)
    return not any(
        isinstance(part, _OF_THE_BATCH) or part.activity_regularizer is not None or _draws(part)
        for part in operation._flatten_layers()
    )


def _draws(layer: Any) -> bool:
    """Return whether a layer draws random numbers. Recurrent layers and attention have a generator in any case."""
    rates = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    may = getattr(layer, "seed_generator", None) is not None
    return may and (rates == [None, None] or any(rates))


def _is_normalisation(operation: Any) -> bool:
    """Return whether an operation is a plain batch normalisation of this process's rows."""
    if type(operation) is not L.BatchNormalization or {"call", "_moments"} & set(vars(operation)):
        return False
    return not (operation.renorm or operation.synchronized or operation.activity_regularizer)


def _normalised(layer: Any, x: Halves) -> Halves:
    """Normalise a batch by the mean and the variance of both halves, as Keras's layer does in training."""
    halves = [tf.cast(half, tf.float32) for half in (rows_between(x.first, last=x.middle), x.second)]
    axes = list(layer._reduction_axes)
    count = tf.cast(tf.add_n([tf.size(half) for half in halves]) // layer.moving_mean.shape[0], tf.float32)
    mean = tf.add_n([tf.reduce_sum(half, axes) for half in halves]) / count
    middle = tf.stop_gradient(tf.reshape(mean, [-1 if axis not in axes else 1 for axis in range(halves[0].shape.rank)]))
    variance = tf.add_n([tf.reduce_sum(tf.math.squared_difference(half, middle), axes) for half in halves]) / count
    for variable, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        variable.assign(variable * layer.momentum + new * (1.0 - layer.momentum))
    scale, offset = (None if one is None else tf.cast(one, tf.float32) for one in (layer.gamma, layer.beta))
    first, second = (
        keras.ops.batch_normalization(half, mean, variance, layer.axis, offset, scale, layer.epsilon)
        for half in (tf.cast(x.first, tf.float32), halves[1])
    )
    return Halves(tf.cast(first, layer.compute_dtype), tf.cast(second, layer.compute_dtype), x.middle)
