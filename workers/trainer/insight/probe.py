"""A compiled pass over a few training rows: the gradients of the loss, and the outputs of hidden layers.

It runs forward and backward with `training=False`, which changes neither random states nor running averages, so
training continues exactly as without it. Tracing takes longer than many passes, so the pass does no more than it must.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from workers.trainer.engine.compiled import RowTensors, row_specs
from workers.trainer.engine.executors import Executor
from workers.trainer.engine.loss_kernels import loss_of
from workers.trainer.engine.network import functional_of, spec_name
from workers.trainer.engine.stacked_network import StackedNetwork

PROBE_ROWS = 256

# The ends of an activation's range; within 5% of them a unit is saturated.
ENDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "hard_sigmoid": (0.0, 1.0), "softsign": (-1.0, 1.0)}

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ProbedLayer:
    """A layer with trainable weights, or with a hidden activation whose units can saturate or die."""

    layer: Any
    activation: str | None  # activation, if a hidden layer's units can saturate or die

    @property
    def name(self) -> str:
        return spec_name(self.layer)

    @property
    def variables(self) -> list[Any]:
        return list(self.layer.trainable_variables)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Every array has the replicas first; a model that is trained by itself is one replica."""

    penalty: Array  # (replicas,): the regularizers' part of the loss
    gradients: list[list[Array]]  # each probed layer's gradients; for an embedding, those of the rows that were read
    outputs: list[Array | None]  # each probed layer's output, (replicas, rows, ..., units); None without an activation


class LayerProbe:
    """Probes the layers of networks in training. `rows` are tensors as `train_step` takes them."""

    def __init__(self, model: keras.Model, rows: RowTensors, value_of: Callable[[Any], Any]) -> None:
        """`value_of` maps a variable of the model to the variable that holds its current values."""
        self._model, self._rows = model, _probed_rows(rows)
        self.layers = probed_layers(model)
        self._executor = Executor(model, PROBE_ROWS)
        self._variables = [[value_of(variable) for variable in layer.variables] for layer in self.layers]
        self._hidden = [layer.layer.output for layer in self.layers if layer.activation is not None]
        self._call: Any = None

    def look_at(self, rows: RowTensors) -> None:
        """Probe on other rows from now on."""
        self._rows = _probed_rows(rows)

    def weights(self) -> list[list[Array]]:
        """Return copies of each probed layer's trainable weights, replicas first."""
        return [[self._replicas_first(v.value.numpy()) for v in variables] for variables in self._variables]

    def run(self) -> ProbeResult:
        with self._executor():
            parts = (self._rows.x, self._rows.y, self._rows.weight)
            if self._call is None:
                specs = [None if part is None else row_specs(part) for part in parts]
                self._call = tf.function(self._trace, autograph=False).get_concrete_function(*specs)
            penalty, gradients, outputs = self._call(*parts)
        remaining = iter([None if g is None else self._replicas_first(g.numpy()) for g in gradients])
        by_layer = [[g for _, g in zip(variables, remaining, strict=False)] for variables in self._variables]
        hidden = iter(outputs)
        return ProbeResult(
            np.atleast_1d(penalty.numpy()).astype(np.float64),
            [[gradient for gradient in layer if gradient is not None] for layer in by_layer],
            [self._replicas_first(next(hidden).numpy()) if layer.activation else None for layer in self.layers],
        )

    def _trace(self, x: Any, y: Any, weight: Any) -> tuple[Any, list[Any], list[Any]]:
        """Return the penalty, the gradients of the probed layers' variables, and the outputs of their activations."""
        raise NotImplementedError

    def _replicas_first(self, values: Array) -> Array:
        return values


class ModelProbe(LayerProbe):
    """Probes a compiled and built model."""

    def __init__(self, model: keras.Model, rows: RowTensors) -> None:
        super().__init__(model, rows, lambda variable: variable)

    def _trace(self, x: Any, y: Any, weight: Any) -> tuple[Any, list[Any], list[Any]]:
        flat = [variable.value for variables in self._variables for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(flat)
            predicted, hidden = self._forward(x)
            loss = loss_of(self._model, tape, (x, y, weight), predicted)
        gradients = [_dense(gradient) for gradient in loss.gradients(tape, flat)]
        penalty = tf.add_n([tf.cast(p, tf.float32) for p in self._model.losses] or [tf.zeros(())])
        return penalty, gradients, hidden

    def _forward(self, x: Any) -> tuple[Any, list[Any]]:
        if not self._hidden:
            return self._model(x, training=False), []
        functional = functional_of(self._model)
        both = keras.Model(functional._inputs_struct, [functional._outputs_struct, self._hidden])
        predicted, hidden = both(x, training=False)
        return predicted, list(hidden)

    def _replicas_first(self, values: Array) -> Array:
        return values[None]


class StackProbe(LayerProbe):
    """Probes trials that train as one stacked network."""

    def __init__(self, stack: StackedNetwork, rows: RowTensors) -> None:
        super().__init__(stack.model, rows, stack.stacked_variable)
        self._stack = stack

    def _trace(self, x: Any, y: Any, weight: Any) -> tuple[Any, list[Any], list[Any]]:
        rows = RowTensors(x, y, weight).map(lambda t: tf.repeat(t[None], self._stack.replicas, axis=0))
        penalty, gradients, outputs = self._stack.inspect(rows.x, rows.y, rows.weight, hidden=self._hidden)
        by_variable = dict(zip(map(id, self._model.trainable_variables), gradients, strict=True))
        return penalty, [by_variable[id(v)] for layer in self.layers for v in layer.variables], outputs


def _probed_rows(rows: RowTensors) -> RowTensors:
    picked = np.linspace(0, rows.count - 1, min(rows.count, PROBE_ROWS)).astype(np.int64)
    return rows.map(lambda t: tf.gather(t, picked))


def probed_layers(model: keras.Model) -> list[ProbedLayer]:
    """Return the layers of a network, in order, that have weights or an activation to record."""
    outputs = {id(tensor) for tensor in model.outputs}
    layers = []
    for layer in functional_of(model).layers:
        hidden = len(layer._inbound_nodes) == 1 and id(layer._inbound_nodes[0].output_tensors[0]) not in outputs
        activation = _activation(layer) if hidden else None
        if layer.trainable_variables or activation is not None:
            layers.append(ProbedLayer(layer, activation))
    return layers


def _activation(layer: Any) -> str | None:
    """Return the activation, if its outputs show dead or saturated units."""
    if isinstance(layer, keras.layers.ReLU):
        return "relu" if not layer.negative_slope else None
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return None  # their outputs are products of gates
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return name if name in ENDS or name in ("relu", "relu6") else None


def _dense(gradient: Any) -> Any:
    """Return a gradient as one tensor; an embedding's is summed over the positions that read a row."""
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        rows, where = tf.unique(tf.reshape(gradient.indices, [-1]))
        gradient = tf.math.unsorted_segment_sum(gradient.values, where, tf.size(rows))
    return tf.cast(gradient, tf.float32)
