"""Dropout whose masks depend only on the layer's seed, the step and the element's position.

Keras draws one stream of random numbers for a whole tensor, so a replica's masks would depend on the size of its stack.
Here each element's 16 random bits are a hash of its index and the state of its own layer's seed generator: a network
drops the same elements in a stack as alone, and a process drops the same elements in its share of a batch as one
process in the whole batch. The rate is exact to 1 in 65,536.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_GOLDEN = 0x9E3779B9  # odd, 2^32 over the golden ratio: a Weyl sequence visits every word
_FIRST, _SECOND = 0x85EBCA6B, 0xC2B2AE35  # constants of MurmurHash3's last mixing step (Appleby 2011)

FIRST_ROW: ContextVar[Any] = ContextVar("first_row", default=0)
"""The number in its batch of the first row, where a process has a share of a batch."""


def drop(x: Any, rate: Any, state: Any, first_row: Any = 0) -> Any:
    """Drop elements of `x`, `(replicas, ...)`, at rates `(replicas,)`, by seed generators' states `(replicas, 2)`."""
    shape = tf.shape(x)
    of_replica = tf.concat([shape[:1], tf.ones_like(shape[1:])], 0)
    threshold = tf.reshape(tf.cast(tf.round(rate * 65_536.0), tf.uint16), of_replica)
    scale = tf.reshape(tf.cast(1.0 / (1.0 - rate), x.dtype), of_replica)
    return _kept(_bits(shape, state, first_row) >= threshold, x * scale)


def _drop_in_one(x: Any, rate: float, state: Any, first_row: Any) -> Any:
    """Drop elements of one network's `x`, as `drop` does for one replica."""
    shape, share = tf.shape(x), np.float32(rate)
    bits = tf.reshape(_bits(tf.concat([[1], shape], 0), state[None], first_row), shape)
    threshold = tf.cast(tf.round(tf.constant(share * np.float32(65_536.0))), tf.uint16)
    return _kept(bits >= threshold, x * tf.constant(1 / (np.float32(1.0) - share), x.dtype))


def _bits(shape: Any, state: Any, first_row: Any) -> Any:
    """Return 16 random bits for each element of a tensor of this shape, the replicas first."""
    size = tf.reduce_prod(shape[1:])
    first = 0 if isinstance(first_row, int) and not first_row else first_row * tf.reduce_prod(shape[2:])
    words = tf.cast(tf.range(first // 2, (first + size + 1) // 2), tf.uint32) * tf.constant(_GOLDEN, tf.uint32)
    state = tf.cast(tf.bitwise.bitwise_and(tf.cast(state, tf.int64), 0xFFFFFFFF), tf.uint32)
    keys = _mixed(state[:, 0] + _mixed(state[:, 1] + tf.constant(_GOLDEN, tf.uint32)))
    bits = tf.bitcast(_mixed(words[None, :] + keys[:, None]), tf.uint16)  # (replicas, words, 2)
    return tf.reshape(tf.reshape(bits, [shape[0], -1])[:, first % 2 : first % 2 + size], shape)


def _kept(condition: Any, x: Any) -> Any:
    """Return `x` where the condition holds, else 0: the gradient takes fewer operations than that of `tf.where`."""
    return tf.raw_ops.Select(condition=condition, x=x, y=tf.zeros_like(x))


def _mixed(words: Any) -> Any:
    for shift, factor in ((16, _FIRST), (13, _SECOND)):
        words = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32)))
        words = words * tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(16, tf.uint32)))


@dataclass(frozen=True, slots=True)
class ByElement:
    """The `call` of a Dropout layer with these masks."""

    layer: Any

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        return self.parts([inputs], training, [0])[0]

    def parts(self, inputs: Sequence[Any], training: bool, starts: Sequence[Any]) -> list[Any]:
        """Drop elements of parts of one batch, which start at these rows, as one call with all its rows does."""
        if not training or self.layer.rate <= 0:
            return list(inputs)
        state, row = tf.convert_to_tensor(self.layer.seed_generator.next()), FIRST_ROW.get()
        places = zip(inputs, starts, strict=True)
        return [_drop_in_one(part, self.layer.rate, state, row + start) for part, start in places]


def seed_by_element(model: keras.Model) -> None:
    """Give every Dropout layer of a network these masks. The saved network is still pure Keras."""
    for layer in model.layers:
        if type(layer) is keras.layers.Dropout and layer.noise_shape is None:
            object.__setattr__(layer, "call", ByElement(layer))
