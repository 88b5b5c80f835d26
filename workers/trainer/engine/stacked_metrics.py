"""Keras's metrics of many networks trained as one, computed within the compiled epoch: by replica, or pooled.

In all of it `order` is int32 `(replicas, rows)`, the rows of `y` that each replica saw, in its order; predictions are
`(rows, replicas, units)` by output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.metric_kernels import buckets, is_plain_area


def metrics_by_replica(model: keras.Model, y: Any, order: Any, predictions: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that a model was compiled with, by name: `(replicas,)` each."""
    compiled = model._compile_metrics
    if compiled is None or not compiled.metrics:
        return {}
    together = _at_once(compiled, len(predictions))
    figures: dict[str, Any] = {}
    if together:
        (truth,), (predicted,) = tf.nest.flatten(y), predictions.values()
        truth, predicted = tf.gather(truth, tf.transpose(order)), tf.cast(predicted, tf.float32)
        figures = {metric.name: formula(metric, truth, predicted) for metric, formula in together}
    if len(figures) == len(compiled.metrics):
        return figures
    return {**_one_by_one(compiled, y, order, predictions), **figures}


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


Formula = Callable[[Any, Any, Any], Any]
"""Takes a metric and truth and predictions, `(rows, replicas, ...)`; returns `(replicas,)`."""


def _at_once(compiled: Any, outputs: int) -> list[tuple[Any, Formula]]:
    """Return the metrics that have a formula for all replicas together, and it."""
    names = [metric.name for metric in compiled.metrics]
    if outputs != 1 or len(set(names)) < len(names):
        return []
    formulas = ((metric, _formula(metric)) for metric in compiled.metrics)
    return [(metric, formula) for metric, formula in formulas if formula is not None]


def _formula(metric: Any) -> Formula | None:
    means: Any = keras.metrics.MeanMetricWrapper
    own = type(metric)
    if isinstance(metric, means) and own.update_state is means.update_state and own.result is means.result:
        return _mean_of_rows
    if own is keras.metrics.RootMeanSquaredError:
        return _root_of_mean_square
    if own is keras.metrics.AUC and is_plain_area(metric):
        return _area
    return None


def _mean_of_rows(metric: Any, truth: Any, predicted: Any) -> Any:
    rows, replicas = tf.shape(predicted)[0], tf.shape(predicted)[1]
    flat = [
        tf.ensure_shape(tf.reshape(part, tf.concat([[-1], tf.shape(part)[2:]], 0)), (None, *part.shape[2:]))
        for part in (truth, predicted)
    ]
    by_row = tf.cast(metric._fn(*flat, **metric._fn_kwargs), tf.float32)
    return tf.reduce_mean(tf.reshape(by_row, [rows, replicas, -1]), axis=[0, 2])


def _root_of_mean_square(_: Any, truth: Any, predicted: Any) -> Any:
    error = predicted - tf.reshape(tf.cast(truth, tf.float32), tf.shape(predicted))
    return tf.sqrt(tf.reduce_mean(tf.reduce_mean(tf.square(error), axis=2), axis=0))


def _area(metric: Any, truth: Any, predicted: Any) -> Any:
    """Count the rows of each label between two thresholds; sums from above are then the curve's points."""
    thresholds, replicas = len(metric._thresholds), tf.shape(predicted)[1]
    positive = tf.cast(tf.cast(tf.reshape(truth, tf.shape(predicted)), tf.bool), tf.float32)
    own = tf.reshape(tf.range(replicas) * thresholds, [1, -1] + [1] * (len(predicted.shape) - 2))
    places = tf.reshape(
        tf.where(tf.math.is_nan(predicted), -1, buckets(predicted, thresholds) + own), [-1]
    )  # -1: counted nowhere

    def above(rows: Any) -> Any:
        counts = tf.math.unsorted_segment_sum(tf.reshape(rows, [-1]), places, replicas * thresholds)
        return tf.cumsum(tf.reshape(counts, [replicas, thresholds]), axis=1, reverse=True)

    def rate(of: Any) -> Any:
        return tf.math.divide_no_nan(of, of[:, :1])

    recall, false_positives = rate(above(positive)), rate(above(1.0 - positive))
    heights = (recall[:, :-1] + recall[:, 1:]) / 2.0
    return tf.reduce_sum((false_positives[:, :-1] - false_positives[:, 1:]) * heights, axis=1)


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
