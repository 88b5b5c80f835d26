"""Keras's metrics of many networks trained as one, computed within the compiled epoch: by replica, or pooled.

In all of it `order` is int32 `(replicas, rows)`, the rows of `y` that each replica saw, in its order; predictions are
`(rows, replicas, units)` by output.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def metrics_by_replica(model: keras.Model, y: Any, order: Any, predictions: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that a model was compiled with, by name: `(replicas,)` each."""
    compiled = model._compile_metrics
    if compiled is None or not compiled.metrics:
        return {}
    if (means := _means_of_rows(compiled, len(predictions))) is not None:
        return _all_at_once(means, y, order, *predictions.values())
    return _one_by_one(compiled, y, order, predictions)


def pooled_metrics(
    model: keras.Model, y: Any, order: Any, predictions: dict[str, Any], known: Any | None = None
) -> dict[str, Any]:
    """Return the metrics over the rows of all replicas together, scalars; `known` is 1 for the rows that count."""
    flat = tf.reshape(order, [-1])
    places = None if known is None else tf.reshape(tf.where(tf.reshape(known, [-1]) > 0), [-1])

    def picked(values: Any) -> Any:
        return values if places is None else tf.gather(values, places)

    truth = tf.nest.map_structure(lambda t: tf.gather(t, picked(flat)), y)
    by_replica = {name: tf.reshape(tf.transpose(v, [1, 0, 2]), [-1, v.shape[-1]]) for name, v in predictions.items()}
    predicted = {name: picked(value) for name, value in by_replica.items()}
    return _results(model._compile_metrics, truth, predicted)


def _all_at_once(means: list[Any], y: Any, order: Any, predicted: Any) -> dict[str, Any]:
    """Return metrics that are means over rows, computed for all replicas' rows in one call."""
    (truth,) = tf.nest.flatten(y)
    truth, predicted = tf.gather(truth, tf.transpose(order)), tf.cast(predicted, tf.float32)
    rows = [
        tf.ensure_shape(tf.reshape(part, tf.concat([[-1], tf.shape(part)[2:]], 0)), (None, *part.shape[2:]))
        for part in (truth, predicted)
    ]
    results = {}
    for metric in means:
        by_row = tf.cast(metric._fn(*rows, **metric._fn_kwargs), tf.float32)
        results[metric.name] = tf.reduce_mean(tf.reshape(by_row, [tf.shape(order)[1], order.shape[0], -1]), axis=[0, 2])
    return results


def _one_by_one(compiled: Any, y: Any, order: Any, predictions: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of one replica after the other, through the same metric objects."""
    names: list[str] = []

    def one(replica: Any) -> Any:
        truth = tf.nest.map_structure(lambda t: tf.gather(t, order[replica]), y)
        results = _results(compiled, truth, {name: value[:, replica] for name, value in predictions.items()})
        names[:] = list(results)
        return tf.stack([tf.cast(value, tf.float32) for value in results.values()])

    replicas = tf.range(order.shape[0])
    values = tf.map_fn(one, replicas, fn_output_signature=tf.float32, parallel_iterations=1)
    return {name: values[:, index] for index, name in enumerate(names)}


def _results(compiled: Any, truth: Any, predicted: dict[str, Any]) -> dict[str, Any]:
    """Return the scalar metrics of some rows; the metric objects are empty before and after."""
    compiled.reset_state()
    same_form = predicted if isinstance(truth, dict) else tf.nest.pack_sequence_as(truth, [*predicted.values()])
    compiled.update_state(truth, same_form)
    results = {name: tf.identity(value) for name, value in compiled.result().items() if len(value.shape) == 0}
    compiled.reset_state()
    return results


def _means_of_rows(compiled: Any, outputs: int) -> list[Any] | None:
    """Return the metrics, if each is a mean over rows: those of all replicas are then computed at once."""
    means: type = keras.metrics.MeanMetricWrapper
    plain = all(
        isinstance(metric, means)
        and type(metric).update_state is means.update_state  # type: ignore[attr-defined]
        and type(metric).result is means.result  # type: ignore[attr-defined]
        for metric in compiled.metrics
    )
    named = [metric.name for metric in compiled.metrics] == list(compiled.result())
    return list(compiled.metrics) if plain and named and outputs == 1 else None
