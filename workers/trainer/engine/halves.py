"""A network's passes in two halves of the batch, which two threads compute side by side.

To divide every single operation among threads is slow: each of them waits for a thread to wake up, and TensorFlow's
products of a few million multiply-adds run on one thread anyway. Two chains of operations, one for each half of a
batch's rows, keep two cores busy from the inputs to the outputs and back. Layers that compute each row by itself are
applied to each half, all others to both together, and so are losses, metrics and updates. The results are those of the
whole batch, except for rounding: a gradient is the sum of two halves' sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.device import threads
from workers.trainer.engine.dropout import ByElement
from workers.trainer.engine.executors import work
from workers.trainer.engine.network import functional_of, nodes_of

L = keras.layers
HALVED_STEP = 3e7  # multiply-adds of a step above which halves are faster, as measured on two cores
# Layers that compute with all rows of a batch, or have a state that each call changes.
_OF_THE_BATCH = (L.BatchNormalization, L.SpectralNormalization, keras.Model)


@dataclass(frozen=True, slots=True)
class _Halves:
    """A tensor's rows in two parts; `whole` where it was not computed in parts."""

    first: Any
    second: Any
    whole: Any = None

    @classmethod
    def of(cls, whole: Any) -> _Halves:
        """Split a tensor in the middle of its rows. The first half of a single row has none."""
        middle = tf.shape(whole)[0] // 2
        return cls(whole[:middle], whole[middle:], whole)

    def joined(self) -> Any:
        if self.whole is not None:
            return self.whole
        joined = tf.concat([self.first, self.second], 0)
        for mark in ("_keras_mask", "_keras_logits"):  # what Keras notes on a tensor for layers and losses
            first, second = getattr(self.first, mark, None), getattr(self.second, mark, None)
            if first is not None and second is not None:
                setattr(joined, mark, tf.concat([first, second], 0))
        return joined


def pays(model: keras.Model, batch_size: int) -> bool:
    """Return whether halves of its batches are worthwhile for a network: two threads, and steps that are not short."""
    several = threads() > 1 and not tf.config.list_logical_devices("GPU")
    divisible = hasattr(functional_of(model), "_nodes_by_depth")
    return several and divisible and batch_size > 1 and work(model, batch_size) > HALVED_STEP


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
        tensors = {id(own): _Halves.of(x) for own, x in zip(functional.inputs, given, strict=True)}
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


def _apply(operation: Any, arguments: Any, named: dict[str, Any]) -> list[_Halves]:
    """Apply an operation of a network to the halves of its arguments. Returns the halves of its outputs, in order."""
    by_element = vars(operation).get("call")
    if isinstance(by_element, ByElement):
        (x,) = arguments
        return [_Halves(*by_element.parts([x.first, x.second], bool(named.get("training"))))]
    if not _is_by_row(operation):
        given, options = keras.tree.map_structure(_joined, (arguments, named))
        return [_Halves.of(whole) for whole in keras.tree.flatten(operation(*given, **options))]
    halves = []
    for half in ("first", "second"):
        given, options = keras.tree.map_structure(partial(_half, half), (arguments, named))
        halves.append(keras.tree.flatten(operation(*given, **options)))
    return [_Halves(*pair) for pair in zip(*halves, strict=True)]


def _half(half: str, value: Any) -> Any:
    return getattr(value, half) if isinstance(value, _Halves) else value


def _joined(value: Any) -> Any:
    return value.joined() if isinstance(value, _Halves) else value


def _is_by_row(operation: Any) -> bool:
    """Return whether each row of a layer's outputs follows from that row alone, without random numbers."""
    if not isinstance(operation, L.Layer) or "call" in vars(operation):
        return False
    return not any(
        isinstance(part, _OF_THE_BATCH) or part.activity_regularizer is not None or _draws(part)
        for part in operation._flatten_layers()
    )


def _draws(layer: Any) -> bool:
    """Return whether a layer draws random numbers. Recurrent layers and attention have a generator in any case."""
    rates = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    may = getattr(layer, "seed_generator", None) is not None
    return may and (rates == [None, None] or any(rates))
