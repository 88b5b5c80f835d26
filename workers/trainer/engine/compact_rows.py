"""Compact form of wide inputs: one-hot columns as the position of their 1, made dense again batch by batch.

A column of 4,096 one-hot numbers is stored, shuffled and gathered as one number, the position of its 1.
`Compact.expand` converts a batch to the network's inputs. A Dense layer on such an input does not even need that: its
product is the sum of the weights at these positions (`sum_up`), which differs from the dense product only by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitserve.encoder import Encoder, zeros
from fitserve.encoding.category import LabelColumn
from fitserve.encoding.encoding import FittedColumn
from fitserve.spec.feature import WIDE_ONE_HOT
from workers.trainer.engine.network import inputs_of

_PLACES = "\0places"  # after an input's name: int32 (rows, columns), -1 where a column has no 1


@dataclass(frozen=True)
class CompactInput:
    """One input: which of its numbers are stored as they are, and its one-hot columns' parts."""

    name: str
    width: int
    plain: tuple[FittedColumn, ...]
    hot: tuple[LabelColumn, ...]

    @cached_property
    def plain_places(self) -> np.ndarray:
        """The input's numbers that are stored as they are, in order."""
        parts = [np.arange(column.offset, column.offset + column.width) for column in self.plain]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each one-hot column begins."""
        return np.array([column.offset for column in self.hot], np.int32)


class Compact:
    """The wide inputs of an encoder, and the forms of their rows."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.inputs: dict[str, CompactInput] = {}
        for one in encoder.inputs:
            own = [column for column in encoder.columns if column.input == one.name]
            hot = tuple(column for column in own if isinstance(column, LabelColumn) and not column.integer)
            if one.dtype == "float32" and sum(column.width for column in hot) >= WIDE_ONE_HOT:
                plain = tuple(column for column in own if column not in hot)
                self.inputs[one.name] = CompactInput(one.name, int(one.shape[0]), plain, hot)
        # By input: the last expanded tensor, and the compact form that it was made from.
        self._batch: dict[str, tuple[Any, Any, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self.inputs)

    def __repr__(self) -> str:
        return str([(i.name, i.width, i.plain_places.tolist(), i.starts.tolist()) for i in self.inputs.values()])

    def encode(self, table: Any) -> dict[str, np.ndarray]:
        """Encode a table's rows in compact form, for `expand`. Raises BadInput."""
        rows = table.num_rows
        arrays = {one.name: zeros((rows, *one.shape), one.dtype) for one in self._others}
        for column in self._encoder.columns:
            if column.input not in self.inputs:
                column.encode_column(table.column(column.name), arrays[column.input][:, column.part])
        for name, one in self.inputs.items():
            arrays[name] = zeros((rows, len(one.plain_places)), "float32")
            arrays[name + _PLACES] = places = zeros((rows, len(one.hot)), "int32")
            at = 0
            for column in one.plain:
                column.encode_column(table.column(column.name), arrays[name][:, at : at + column.width])
                at += column.width
            for at, column in enumerate(one.hot):
                places[:, at] = column.places_of_column(table.column(column.name))
        return arrays

    @property
    def _others(self) -> list[Any]:
        return [one for one in self._encoder.inputs if one.name not in self.inputs]

    def expand(self, x: Any) -> Any:
        """Convert a batch to the network's inputs."""
        if not self.inputs:
            return x
        dense = {name: value for name, value in x.items() if not name.endswith(_PLACES)}
        for name, one in self.inputs.items():
            plain, places = x[name], x[name + _PLACES]
            dense[name] = self._dense(one, plain, places)
            self._batch[name] = (dense[name], plain, places)
        return dense

    def _dense(self, one: CompactInput, plain: Any, places: Any) -> Any:
        columns = sorted([*one.plain, *one.hot], key=lambda column: column.offset)
        at, parts = 0, []
        for column in columns:
            if column in one.hot:
                parts.append(tf.one_hot(places[:, one.hot.index(column)], column.width, dtype=tf.float32))
            else:
                parts.append(plain[:, at : at + column.width])
                at += column.width
        return tf.concat(parts, axis=1)

    def look_up(self, model: keras.Model) -> None:
        """Have the model's Dense layers on a wide input add up weights, where the batch is one of `expand`'s."""
        ends = {id(tensor): name for name, tensor in inputs_of(model).items() if name in self.inputs}
        for layer in model.layers:
            if type(layer) is not keras.layers.Dense or layer.compute_dtype != "float32":
                continue
            name = ends.get(id(layer.input)) if len(layer._inbound_nodes) == 1 else None
            if name is not None:
                object.__setattr__(layer, "call", self._call_of(layer, name))

    def _call_of(self, layer: Any, name: str) -> Any:
        dense_call = layer.call

        def call(inputs: Any, training: Any = None) -> Any:
            expanded, plain, places = self._batch.get(name, (None, None, None))
            if expanded is not inputs:
                return dense_call(inputs)
            x = sum_up(self.inputs[name], plain, places, layer.kernel.value)
            x = x + layer.bias.value if layer.use_bias else x
            return x if layer.activation is None else layer.activation(x)

        return call

    def forget(self) -> None:
        """Forget the last batch; otherwise its graph would stay in memory."""
        self._batch = {}


def sum_up(one: CompactInput, plain: Any, places: Any, kernel: Any) -> Any:
    """Return the product of the expanded rows with `kernel` `(width, units)`, without the expansion."""
    at, starts = tf.constant(one.plain_places), tf.constant(one.starts)
    rows = tf.where(places >= 0, places + starts, -1)  # rows of the kernel

    @tf.custom_gradient
    def product(kernel: Any) -> Any:
        looked_up = tf.gather(kernel, tf.maximum(rows, 0))  # (batch, columns, units)
        total = tf.reduce_sum(tf.where(rows[..., None] >= 0, looked_up, 0.0), axis=1)
        if len(one.plain_places):
            total += tf.matmul(plain, tf.gather(kernel, at))

        def gradient(upstream: Any) -> Any:
            repeated = tf.repeat(upstream, len(one.starts), axis=0)
            own = tf.math.unsorted_segment_sum(repeated, tf.reshape(rows, [-1]), one.width)  # drops -1
            if len(one.plain_places):
                own = tf.tensor_scatter_nd_add(own, at[:, None], tf.matmul(plain, upstream, transpose_a=True))
            return own

        return total, gradient

    return product(tf.convert_to_tensor(kernel))
