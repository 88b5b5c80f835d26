"""A compiled pass over a few training rows: the loss's gradients, and what hidden layers say.

It runs forward and backward with `training=False`, so that neither random states nor running averages move: training
goes on exactly as if nobody had looked. Tracing it takes longer than many looks, so that it does no more than it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from workers.trainer.engine.compiled import Rows, executor
from workers.trainer.engine.signature import functional_of
from workers.trainer.trials.stacked_network import Stack

PROBE_ROWS = 256

# The ends of an activation's range; within 5% of it a unit is saturated.
ENDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "hard_sigmoid": (0.0, 1.0), "softsign": (-1.0, 1.0)}

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Watched:
    """A layer with trainable weights, or with a hidden activation that can saturate or die."""

    layer: Any
    activation: str | None  # of a hidden layer, where its units can saturate or die


@dataclass(frozen=True, slots=True)
class Seen:
    """What a probe saw. Every array has the replicas first: one, where a model is trained by itself."""

    penalty: Array  # (replicas,): what regularizers add to the loss
    gradients: list[list[Array]]  # of each watched layer; of a shared embedding, of the rows that were read
    outputs: list[Array | None]  # (replicas, rows, ..., units) of each watched layer with units to count


class Probe(Protocol):
    """Looks into networks that train."""

    watched: list[Watched]

    def weights(self) -> list[list[Array]]:
        """Copies of each watched layer's trainable weights, replicas first."""
        ...

    def run(self) -> Seen: ...


class ModelProbe:
    """Of a compiled and built model. `rows` are tensors as `train_step` takes them."""

    def __init__(self, model: keras.Model, rows: Rows) -> None:
        self._model, self._rows = model, _some(rows)
        self.watched = watched_layers(model)
        self._own = [list(one.layer.trainable_variables) for one in self.watched]
        self._counted = [one.layer.output for one in self.watched if one.activation is not None]
        self._call: Any = None

    def weights(self) -> list[list[Array]]:
        return [[variable.value.numpy()[None] for variable in own] for own in self._own]

    def run(self) -> Seen:
        with executor(self._model, PROBE_ROWS)():
            self._call = self._call or tf.function(self._trace, autograph=False, reduce_retracing=True)
            penalty, gradients, outputs = self._call(self._rows.x, self._rows.y, self._rows.weight)
        return _seen(self.watched, self._own, [penalty], gradients, outputs, alone=True)

    def _trace(self, x: Any, y: Any, weight: Any) -> Any:
        flat = [variable.value for own in self._own for variable in own]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(flat)
            predicted, hidden = self._forward(x)
            loss = self._model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=False)
        gradients = [_dense(one) for one in tape.gradient(loss, flat)]
        return tf.add_n([tf.cast(p, tf.float32) for p in self._model.losses] or [tf.zeros(())]), gradients, hidden

    def _forward(self, x: Any) -> tuple[Any, list[Any]]:
        """The model's outputs, and those of the layers whose units are counted."""
        if not self._counted:
            return self._model(x, training=False), []
        functional = functional_of(self._model)
        both = keras.Model(functional._inputs_struct, [functional._outputs_struct, self._counted])
        predicted, hidden = both(x, training=False)
        return predicted, list(hidden)


class StackProbe:
    """Of trials that train as one stacked network."""

    def __init__(self, stack: Stack, rows: Rows) -> None:
        self._stack, self._rows = stack, _some(rows)
        self.watched = watched_layers(stack.model)
        self._own = [[stack.variable(v) for v in one.layer.trainable_variables] for one in self.watched]
        self._counted = [one.layer.output for one in self.watched if one.activation is not None]
        self._call: Any = None

    def weights(self) -> list[list[Array]]:
        return [[variable.value.numpy() for variable in own] for own in self._own]

    def run(self) -> Seen:
        with executor(self._stack.model, PROBE_ROWS)():
            self._call = self._call or tf.function(self._trace, autograph=False, reduce_retracing=True)
            penalty, gradients, outputs = self._call(self._rows.as_tuple())
        return _seen(self.watched, self._own, penalty, gradients, outputs)

    def _trace(self, rows: Any) -> Any:
        everyone = tf.nest.map_structure(lambda t: tf.repeat(t[None], self._stack.replicas, axis=0), rows)
        penalty, gradients, outputs = self._stack.looked_into(*everyone, hidden=self._counted)
        by_variable = dict(zip([id(v) for v in self._stack.model.trainable_variables], gradients, strict=True))
        flat = [v for one in self.watched for v in one.layer.trainable_variables]
        return penalty, [by_variable[id(v)] for v in flat], outputs


def _seen(
    watched: Sequence[Watched], own: Sequence[Any], penalty: Any, gradients: Any, outputs: Any, alone: bool = False
) -> Seen:
    def replicas_first(tensor: Any) -> Array:
        return tensor.numpy()[None] if alone else tensor.numpy()

    given, said = iter(gradients), iter(outputs)
    by_layer = [[replicas_first(g) for g in (next(given) for _ in layer) if g is not None] for layer in own]
    counted = [replicas_first(next(said)) if one.activation is not None else None for one in watched]
    return Seen(np.asarray([float(p) for p in penalty]), by_layer, counted)


def watched_layers(model: keras.Model) -> list[Watched]:
    """The layers of a network, in order, that have something to tell."""
    outputs = {id(tensor) for tensor in model.outputs}
    found = []
    for layer in functional_of(model).layers:
        hidden = len(layer._inbound_nodes) == 1 and id(layer._inbound_nodes[0].output_tensors[0]) not in outputs
        activation = _counted(layer) if hidden else None
        if layer.trainable_variables or activation is not None:
            found.append(Watched(layer, activation))
    return found


def _counted(layer: Any) -> str | None:
    """The activation by whose output units can be told to be dead or saturated."""
    if isinstance(layer, keras.layers.ReLU):
        return "relu" if not layer.negative_slope else None
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return None  # their outputs are products of gates
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return name if name in ENDS or name in ("relu", "relu6") else None


def _dense(gradient: Any) -> Any:
    """A gradient as one tensor; of an embedding, summed over the places where a row was read, other rows left out."""
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        places, where = tf.unique(tf.reshape(gradient.indices, [-1]))
        gradient = tf.math.unsorted_segment_sum(gradient.values, where, tf.size(places))
    return tf.cast(gradient, tf.float32)


def _some(rows: Rows) -> Rows:
    """At most `PROBE_ROWS` rows, spread over all of them."""
    count = rows.count
    picked = np.linspace(0, count - 1, min(count, PROBE_ROWS)).astype(np.int64)
    return Rows(
        *(
            None if part is None else tf.nest.map_structure(lambda t: tf.gather(t, picked), part)
            for part in (rows.x, rows.y, rows.weight)
        )
    )
