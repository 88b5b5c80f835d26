"""Updates of Keras's metrics in few operations, where Keras takes many: they take a quarter of a small network's trace.

The variables, and what they hold, stay Keras's own, so that checkpoints, resets and sums over processes do not change.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.loss_kernels import logits_of


def fuse_metrics(model: keras.Model) -> None:
    """Give a built model's means and areas under a ROC curve their short form; the figures are equal."""
    compiled = [part for part in (model._compile_loss, model._compile_metrics) if part is not None]
    for metric in [model._loss_tracker, *(metric for part in compiled for metric in part.metrics)]:
        own = type(metric)
        if own is keras.metrics.AUC and is_plain_area(metric):
            _shorten(metric)
        elif own is keras.metrics.Mean:
            _shorten_mean(metric)
        elif isinstance(metric, _MEANS) and own.update_state is _MEANS.update_state:
            _shorten_mean_of_rows(metric)


def is_plain_area(metric: Any) -> bool:
    """Return whether it is the area under a ROC curve by even thresholds, of one probability."""
    plain = str(metric.curve).endswith("ROC")
    interpolated = str(metric.summation_method).endswith("INTERPOLATION")
    odd = metric.multi_label or metric.label_weights is not None or metric._from_logits
    return plain and interpolated and not odd and bool(metric._thresholds_distributed_evenly)


def buckets(predicted: Any, thresholds: int) -> Any:
    """Return between which two of so many even thresholds each probability lies, as Keras counts."""
    scaled = tf.math.ceil(tf.clip_by_value(predicted, 0.0, 1.0) * (thresholds - 1)) - 1
    return tf.cast(tf.nn.relu(scaled), tf.int32)


_MEANS: Any = keras.metrics.MeanMetricWrapper


def _shorten_mean(metric: Any) -> None:
    """Shorten the mean of one figure for each batch, weighted by its rows."""
    update_state = metric.update_state

    def update(values: Any, sample_weight: Any = None) -> None:
        value, weight = tf.convert_to_tensor(values), sample_weight
        if tf.is_tensor(weight) and value.shape.rank == weight.shape.rank == 0 and value.dtype == metric.dtype:
            weight = tf.cast(weight, metric.dtype)
            _add(metric, value * weight, weight)
        else:
            update_state(values, sample_weight)

    metric.update_state = update


def _shorten_mean_of_rows(metric: Any) -> None:
    """Shorten the mean over rows of a figure that a function computes."""
    update_state = metric.update_state

    def update(y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if sample_weight is not None or getattr(y_pred, "_keras_mask", None) is not None:
            update_state(y_true, y_pred, sample_weight)
            return
        values = _places_of_labels(metric, y_true, y_pred)
        values = metric._fn(y_true, y_pred, **metric._fn_kwargs) if values is None else values
        if values.dtype != metric.dtype or not values.shape.rank or values.shape.rank > 2:
            update_state(y_true, y_pred)
            return
        if values.shape.rank == 2 and values.shape[1] != 1:
            values = tf.reduce_mean(values, axis=1)
        _add(metric, tf.reduce_sum(values), tf.cast(tf.size(values), metric.dtype))

    metric.update_state = update


def _places_of_labels(metric: Any, y_true: Any, y_pred: Any) -> Any | None:
    """Return 1 for the rows whose label is the most probable; None for other metrics, and other truth or predictions.

    Probabilities are not negative: what Keras does about -0 is not needed.
    """
    sparse = type(metric) is keras.metrics.SparseCategoricalAccuracy
    labels = sparse and y_true.dtype == tf.int32 and (y_true.shape.rank == 1 or y_true.shape[1:] == (1,))
    if not labels or y_pred.shape.rank != 2 or logits_of(y_pred, "Softmax") is None:
        return None
    labels = y_true if y_true.shape.rank == 1 else tf.reshape(y_true, [-1])
    return tf.cast(tf.equal(labels, tf.argmax(y_pred, axis=1, output_type=tf.int32)), metric.dtype)


def _add(metric: Any, total: Any, count: Any) -> None:
    for variable, increase in ((metric.total, total), (metric.count, count)):
        tf.raw_ops.AssignAddVariableOp(resource=variable.value.handle, value=increase)


def _shorten(metric: Any) -> None:
    count, update_state = len(metric._thresholds), metric.update_state

    def update(y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if sample_weight is not None or not metric._built:
            update_state(y_true, y_pred, sample_weight)
            return
        predicted = tf.reshape(tf.cast(y_pred, tf.float32), [-1])
        positive = tf.cast(tf.cast(tf.reshape(y_true, [-1]), tf.bool), tf.float32)
        rows = tf.stack([positive, 1.0 - positive], axis=1)
        counts = tf.math.unsorted_segment_sum(rows, buckets(predicted, count), count)
        above = tf.cumsum(counts, reverse=True)
        below = tf.reduce_sum(rows, axis=0) - above
        for part, true, false in (
            (above, metric.true_positives, metric.false_positives),
            (below, metric.false_negatives, metric.true_negatives),
        ):
            for variable, increase in zip((true, false), tf.unstack(part, axis=1), strict=True):
                tf.raw_ops.AssignAddVariableOp(resource=variable.value.handle, value=increase)

    def result() -> Any:
        recall, false_rate = (
            tf.math.divide_no_nan(above.value, above.value + below.value)
            for above, below in (
                (metric.true_positives, metric.false_negatives),
                (metric.false_positives, metric.true_negatives),
            )
        )
        heights = (recall[:-1] + recall[1:]) / 2.0
        return tf.reduce_sum((false_rate[:-1] - false_rate[1:]) * heights)

    metric.update_state, metric.result = update, result
