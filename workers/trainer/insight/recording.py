"""Layers as they train: looked at between two epochs, on a fixed batch of training rows.

One compiled function runs the batch forward and backward with `training=False`, so that neither random states nor
running averages move: training goes on exactly as if nobody had looked. It costs about two training steps, so that
short epochs are not all looked at: `due` says which, from the number of steps alone.

    weights, gradients   L2 norms of a layer's trainable weights, and of the loss's gradient for them
    updates              L2 norm of the weights' change since the last look, divided by the epochs in between
    ratio                updates / weights
    sparsity             share of weights whose magnitude is below 1e-3
    saturated            share of a hidden layer's sigmoid or tanh units that are, on at least 95% of the rows, within
                         5% of the end of their range (Glorot and Bengio 2010)
    dead                 share of a hidden layer's ReLU units that are 0 on every row (Maas et al. 2013)
    values               the weights themselves, by name, of a network so small that it can be drawn with them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

PROBE_ROWS = 256
STEPS_WORTH = 40  # an epoch of so many steps can be looked at for less than 5% of its time
ALWAYS = 10  # the first epochs are looked at in any case: what goes wrong early shows there
SMALL = 1e-3
SATURATED_ROWS = 0.95
BINS = 30
DRAWN_WEIGHTS = 512  # of a network whose weights are recorded themselves
DRAWN_LOOKS = 400  # at most about so many looks of a run record them
HISTOGRAM_VALUES = 20_000  # a larger layer's histogram is of every n-th weight

# The ends of an activation's range; within 5% of it a unit is saturated.
_ENDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "hard_sigmoid": (0.0, 1.0), "softsign": (-1.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Watched:
    """A layer with trainable weights, or with a hidden activation that can saturate or die."""

    layer: Any
    activation: str | None  # of a hidden layer, where its units can saturate or die


def due(epoch: int, epochs: int, steps: int) -> bool:
    """Whether epoch `epoch` (from 1) of `epochs`, each of `steps` batches, is looked at."""
    every = max(1, -(-STEPS_WORTH // max(1, steps)))
    return epoch <= min(ALWAYS, 2 + epochs // 10) or epoch == epochs or epoch % every == 0


def histogram_due(look: int) -> bool:
    """Whether the `look`-th look (from 0) takes histograms as well: the first, and every tenth."""
    return look % 10 == 0


class Recorder:
    """Looks at `model`, compiled and built, on `x`, `y`, `weight` (tensors, rows first) as `train_step` takes them."""

    def __init__(self, model: keras.Model, x: Any, y: Any, weight: Any = None) -> None:
        self.model = model
        self._batch = [_first(part) for part in (x, y, weight)]
        self.watched = watched_layers(model)
        self._variables = [list(one.layer.trainable_variables) for one in self.watched]
        self._before = [[tf.Variable(v, trainable=False) for v in own] for own in self._variables]
        self._looks, self._last = 0, 0
        self._drawn = sum(int(np.prod(v.shape)) for own in self._variables for v in own) <= DRAWN_WEIGHTS
        self._call: Any = None

    def begin(self) -> None:
        """Another trial begins on the same model: updates are counted from its first weights on."""
        self._last = 0
        for own, before in zip(self._variables, self._before, strict=True):
            for variable, old in zip(own, before, strict=True):
                old.assign(variable.value)

    def look(self, epoch: int, final: bool = False) -> dict[str, Any]:
        """The row of epoch `epoch` (from 1): `{"penalty": ..., "layers": [...]}`, plain JSON values.

        `penalty` is what regularizers add to the loss, at this moment. A number that is not finite becomes None.
        """
        if self._looks == 0:
            # Tracing takes longer than looking once, and somebody waits for the first epoch.
            values = self._trace(*self._batch).numpy()
        else:
            self._call = self._call or tf.function(self._trace, autograph=False, reduce_retracing=True)
            values = self._call(*self._batch).numpy()
        between, self._last = max(1, epoch - self._last), epoch
        with_histograms = histogram_due(self._looks) or final
        self._looks += 1
        rows = [
            self._row(one, own, between, with_histograms) for one, own in zip(self.watched, values[1:], strict=True)
        ]
        if self._drawn and (self._looks <= DRAWN_LOOKS or with_histograms):
            for row, own in zip(rows, self._variables, strict=True):
                if own:
                    row["values"] = {v.name: _rounded(v.numpy()) for v in own}
        return {"penalty": _finite(values[0][0]), "layers": rows}

    def _row(self, one: Watched, values: Any, between: int, with_histograms: bool) -> dict[str, Any]:
        weights, gradients, updates, small, size, saturated, dead = (float(value) for value in values)
        row: dict[str, Any] = {"name": one.layer.name, "class": type(one.layer).__name__}
        if size:
            row |= {
                "size": int(size),
                "weights": _finite(weights),
                "gradients": _finite(gradients),
                "updates": _finite(updates / between),
                "ratio": _finite(updates / between / weights) if weights else None,
                "sparsity": _finite(small),
            }
        if one.activation in _ENDS:
            row["saturated"] = _finite(saturated)
        elif one.activation is not None:
            row["dead"] = _finite(dead)
        if with_histograms and size:
            row["histogram"] = histogram(np.concatenate([v.numpy().ravel() for v in one.layer.trainable_variables]))
        return row

    def _trace(self, x: Any, y: Any, weight: Any) -> Any:
        """float32 (1 + layers, 7): the penalty first, then a line for each layer, in the order of `_row`."""
        flat = [variable.value for own in self._variables for variable in own]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(flat)
            predicted, hidden = self._forward(x)
            loss = self.model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=False)
        gradients = iter(tape.gradient(loss, flat))
        penalty = tf.add_n([tf.cast(p, tf.float32) for p in self.model.losses] or [tf.zeros(())])
        lines = [tf.stack([penalty, *[tf.zeros(())] * 6])]
        for one, own, before, output in zip(self.watched, self._variables, self._before, hidden, strict=True):
            lines.append(
                tf.stack([*_weights_line(own, [next(gradients) for _ in own], before), *_units_line(one, output)])
            )
        return tf.stack(lines)

    def _forward(self, x: Any) -> tuple[Any, list[Any]]:
        """The model's outputs, and the output of every watched layer whose units are counted (else None)."""
        counted = [one.layer for one in self.watched if one.activation is not None]
        if not counted:
            return self.model(x, training=False), [None] * len(self.watched)
        functional = getattr(self.model, "_functional", None) or self.model
        both = keras.Model(functional._inputs_struct, [functional._outputs_struct, [one.output for one in counted]])
        predicted, outputs = both(x, training=False)
        found = iter(outputs)
        return predicted, [next(found) if one.activation is not None else None for one in self.watched]


def _weights_line(own: Sequence[Any], gradients: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    if not own:
        return [tf.zeros(())] * 5
    now = [tf.cast(variable.value, tf.float32) for variable in own]
    size = float(sum(int(np.prod(variable.shape)) for variable in own))
    small = tf.add_n([tf.reduce_sum(tf.cast(tf.abs(v) < SMALL, tf.float32)) for v in now]) / size
    moved = _norm([v - tf.cast(old, tf.float32) for v, old in zip(now, before, strict=True)])
    with tf.control_dependencies([moved]):
        for variable, old in zip(own, before, strict=True):
            old.assign(tf.cast(variable.value, old.dtype))
    given = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients if g is not None]
    return [_norm(now), _norm([tf.cast(g, tf.float32) for g in given]), moved, small, tf.constant(size)]


def _units_line(one: Watched, output: Any) -> list[Any]:
    """Shares of saturated and of dead units. A unit is a channel: rows and places are counted together."""
    zero = tf.zeros(())
    if output is None:
        return [zero, zero]
    flat = tf.reshape(tf.cast(output, tf.float32), [-1, output.shape[-1]])
    if one.activation in _ENDS:
        low, high = _ENDS[one.activation]
        near = 0.05 * (high - low)
        at_end = tf.cast((flat < low + near) | (flat > high - near), tf.float32)
        return [tf.reduce_mean(tf.cast(tf.reduce_mean(at_end, 0) >= SATURATED_ROWS, tf.float32)), zero]
    return [zero, tf.reduce_mean(tf.cast(tf.reduce_max(tf.abs(flat), 0) <= 0.0, tf.float32))]


def watched_layers(model: keras.Model) -> list[Watched]:
    """The layers of a network, in order, that have something to tell."""
    functional = getattr(model, "_functional", None) or model
    outputs = {id(tensor) for tensor in model.outputs}
    found = []
    for layer in functional.layers:
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
    return name if name in _ENDS or name in ("relu", "relu6") else None


def histogram(values: np.ndarray) -> dict[str, Any] | None:
    """`{"low", "high", "counts"}` of finite values in `BINS` equal bins; None where a value is not finite."""
    values = values[:: max(1, len(values) // HISTOGRAM_VALUES)]
    if not np.isfinite(values).all():
        return None
    counts, edges = np.histogram(values, BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def _norm(parts: Sequence[Any]) -> Any:
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(part)) for part in parts])) if parts else tf.zeros(())


def _first(part: Any) -> Any:
    """At most `PROBE_ROWS` rows, spread over all of them."""
    if part is None:
        return None

    def spread(tensor: Any) -> Any:
        rows = int(tensor.shape[0])
        return tf.gather(tensor, np.linspace(0, rows - 1, min(rows, PROBE_ROWS)).astype(np.int64))

    return tf.nest.map_structure(spread, part)


def _rounded(values: np.ndarray) -> Any:
    """Nested lists of six digits each; None where a number is not finite."""
    if values.ndim == 0:
        return _finite(float(values))
    return [_rounded(part) for part in values] if values.ndim > 1 else [_finite(float(v)) for v in values]


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
