"""Losses and penalties of many networks trained as one: each is `(replicas,)`, as Keras computes it for one network.

Predictions, truth and weights are `(replicas, rows, ...)`; `values` are those of the model's variables, by id, with a
leading replica axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.network import outputs_of, spec_name

Setting = Callable[[str], Any | None]
"""Returns the values of a setting by replica; None if all replicas use the model's."""


def losses_by_replica(
    model: keras.Model, y: Any, predicted: dict[str, Any], weight: Any, smoothing: Setting, known: Any | None = None
) -> Any:
    """Return the weighted sum of the outputs' losses, each a mean over the batch.

    Args:
        smoothing: the label smoothing of an output's loss, `(replicas,)`.
        known: 1 for the rows that count, `(replicas, rows)`.
    """
    total: Any = 0.0
    names = list(outputs_of(model))
    truth = y if isinstance(y, dict) else dict(zip(names, tf.nest.flatten(y), strict=True))
    for entry, name in zip(model._compile_loss._flat_losses, _loss_order(model, names), strict=True):
        loss, expected = entry.loss, truth[name]
        if (share := smoothing(name)) is not None:
            loss, expected = _smoothed(loss, expected, share)
        rows = loss.call(expected, predicted[name])
        if weight is not None:
            of_rows = weight[name] if isinstance(weight, dict) else tf.nest.flatten(weight)[0]
            rows = rows * tf.reshape(of_rows, tf.shape(rows))
        by_replica = tf.reshape(rows, [tf.shape(predicted[name])[0], -1])
        mean = tf.reduce_mean(by_replica, axis=1) if known is None else _mean_of(by_replica, known)
        total += mean if entry.loss_weights is None else mean * entry.loss_weights
    return total


def penalties_by_replica(model: keras.Model, values: dict[int, Any]) -> Any:
    """Return the L1 and L2 penalties in each replica's loss; 0 without regularizers."""
    total: Any = 0.0
    for variable in model.trainable_variables:
        if (regularizer := variable.regularizer) is None:
            continue
        value = values[id(variable)]
        value = tf.reshape(value, [tf.shape(value)[0], -1])
        if (l1 := float(getattr(regularizer, "l1", 0.0) or 0.0)) > 0:
            total += l1 * tf.reduce_sum(tf.abs(value), axis=1)
        if (l2 := float(getattr(regularizer, "l2", 0.0) or 0.0)) > 0:
            total += l2 * tf.reduce_sum(tf.square(value), axis=1)
    return total


def own_penalties_by_replica(model: keras.Model, values: dict[int, Any], strengths: Setting) -> Any:
    """Return penalties whose strengths differ between replicas: `(replicas, 2)` by `layer/variable`."""
    total: Any = 0.0
    for layer in model.layers:
        for variable in layer.trainable_variables:
            if (own := strengths(f"{spec_name(layer)}/{variable.name}")) is None:
                continue
            value = values[id(variable)]
            value = tf.reshape(value, [tf.shape(value)[0], -1])
            total += own[:, 0] * tf.reduce_sum(tf.abs(value), axis=1)
            total += own[:, 1] * tf.reduce_sum(tf.square(value), axis=1)
    return total


def _loss_order(model: keras.Model, names: list[str]) -> list[str]:
    """Return the output that each of Keras's flat losses is for: the last part of its path, where it has one."""
    paths = [entry.path for entry in model._compile_loss._flat_losses]
    return [path[-1] if path and path[-1] in names else names[path[-1] if path else 0] for path in paths]


def _mean_of(values: Any, known: Any) -> Any:
    """Return the mean over each replica's known rows; the values of other rows are ignored."""
    counted = tf.where(known > 0, values, tf.zeros_like(values))
    return tf.reduce_sum(counted, axis=1) / tf.maximum(tf.reduce_sum(known, axis=1), 1.0)


def _smoothed(loss: Any, truth: Any, smoothing: Any) -> tuple[Any, Any]:
    """Return a loss without label smoothing, and labels `(replicas, batch, units)` smoothed by each replica's share."""
    bare = type(loss).from_config({**loss.get_config(), "label_smoothing": 0.0})
    truth = tf.cast(truth, tf.float32)
    share = tf.reshape(smoothing, [-1, 1, 1])
    binary = isinstance(loss, keras.losses.BinaryCrossentropy)
    middle = 0.5 if binary else 1.0 / float(truth.shape[-1])
    return bare, truth * (1.0 - share) + share * middle
