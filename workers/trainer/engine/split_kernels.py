"""Wide Dense layers with their kernel in two parts, the upper and the lower rows, each of which has a thread.

Where a batch is small, the update of a wide kernel takes longer than its products: Adam reads or writes ten numbers for
each weight, and the gradients of a batch's two halves (`workers.trainer.engine.halves`) must first be added up. Two
kernels of half as many rows have gradients and updates of their own, and the layer adds their products:

    x @ kernel = x[:, :middle] @ upper + x[:, middle:] @ lower

Only training steps see the parts. A call of the compiled function copies Keras's variables to them at its beginning,
and back at its end: callbacks, checkpoints and exports know Keras's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.device import is_divided_among_threads
from workers.trainer.engine.executors import work
from workers.trainer.engine.loss_kernels import has_short_steps
from workers.trainer.engine.network import functional_of
from workers.trainer.engine.optimizer_kernels import PARTS, Part, kept_for

FEWEST = 1 << 17  # weights of a kernel whose update takes long
MOST = 1 << 23  # weights of all of them: their copies, of what the optimizer keeps too, take 100 MB
MOST_ROWS = 64  # of a batch: with more of them halves are faster, as measured on two cores


WideKernel = tuple[Any, list[tf.Variable]]
"""A layer, and its variables: first the kernel, then what the optimizer keeps for it."""


def kernels_to_split(model: keras.Model, batch_size: int) -> list[WideKernel]:
    """Return the kernels of a built model that train faster in parts; none where halves of batches are faster."""
    if not (is_divided_among_threads() and has_short_steps(model) and batch_size <= MOST_ROWS):
        return []
    wide = [layer for layer in functional_of(model).layers if _divisible(layer)]
    weights = sum(math.prod(layer.kernel.shape) for layer in wide)
    if weights > MOST or 3.0 * batch_size * weights <= work(model, batch_size) / 2:
        return []
    kept = ((layer, kept_for(model.optimizer, layer.kernel.value)) for layer in wide)
    return [(layer, [layer.kernel.value, *own]) for layer, own in kept if own is not None]


class SplitKernels:
    """Kernels of some layers, which the model's optimizer updates in parts."""

    def __init__(self, kernels: list[WideKernel]) -> None:
        self._kernels = [_SplitKernel(layer, whole) for layer, whole in kernels]

    @property
    def variables(self) -> list[tf.Variable]:
        return [variable for kernel in self._kernels for part in kernel.parts for variable in (part.value, *part.kept)]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Trace training steps with the parts, which are copied from Keras's variables before and back afterwards."""
        for kernel in self._kernels:
            kernel.take()
            object.__setattr__(kernel.layer, "call", kernel.call)
        token = PARTS.set({id(kernel.layer.kernel.value): kernel.parts for kernel in self._kernels})
        try:
            yield
        finally:
            PARTS.reset(token)
            for kernel in self._kernels:
                object.__delattr__(kernel.layer, "call")
        for kernel in self._kernels:
            kernel.give_back()


class _SplitKernel:
    """A layer's kernel with what the optimizer keeps for it, `whole`, and their parts."""

    def __init__(self, layer: Any, whole: Sequence[tf.Variable]) -> None:
        self.layer, self._whole = layer, whole
        self._middle = int(whole[0].shape[0]) // 2
        upper = [tf.Variable(own[: self._middle]) for own in whole]
        lower = [tf.Variable(own[self._middle :]) for own in whole]
        self.parts = [Part(value, kept) for value, *kept in (upper, lower)]

    def _variables(self) -> Iterator[tuple[tf.Variable, tf.Variable, tf.Variable]]:
        """Yield each whole variable with its upper and its lower part."""
        upper, lower = ([part.value, *part.kept] for part in self.parts)
        yield from zip(self._whole, upper, lower, strict=True)

    def take(self) -> None:
        """Copy the values to the parts."""
        for whole, upper, lower in self._variables():
            value = whole.read_value()
            upper.assign(value[: self._middle])
            lower.assign(value[self._middle :])

    def give_back(self) -> None:
        """Copy the parts' values back."""
        for whole, upper, lower in self._variables():
            whole.assign(tf.concat([upper.read_value(), lower.read_value()], 0))

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Compute the layer's outputs, as Keras does but for the order of a sum."""
        upper, lower = (part.value for part in self.parts)
        x = tf.matmul(inputs[:, : self._middle], upper) + tf.matmul(inputs[:, self._middle :], lower)
        x = x + self.layer.bias.value if self.layer.use_bias else x
        return x if self.layer.activation is None else self.layer.activation(x)


def _divisible(layer: Any) -> bool:
    """Return whether a layer is Dense, in 32-bit floats, used once, with a wide kernel that is free to be split."""
    if type(layer) is not keras.layers.Dense or "call" in vars(layer) or len(layer._inbound_nodes) != 1:
        return False
    restricted = layer.kernel_regularizer or layer.kernel_constraint or layer.quantization_mode or layer.lora_enabled
    plain = layer.kernel.trainable and layer.compute_dtype == "float32" and len(layer.input.shape) == 2
    return plain and not restricted and math.prod(layer.kernel.shape) >= FEWEST
