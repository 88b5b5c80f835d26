"""Losses with their gradients in few operations, where Keras and TensorFlow take many.

The gradient of a cross-entropy by its logits is known: prediction minus truth. Keras's formula, differentiated
operation by operation, is a third of a small network's trace. `shorten_steps` replaces Keras's `train_step` and
`test_step` for networks with one output and such a loss: the loss is bit for bit Keras's, its gradient differs by
rounding only. Predictions that were computed in halves of the batch have their loss computed in halves too, which
differs by rounding; no gradient passes through their join. Steps with weights of rows, on several devices, or of a
model with steps of its own stay Keras's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from workers.trainer.engine.halves import Halves, halves_of, rows_between
from workers.trainer.engine.optimizer_kernels import PARTS

Scale = Callable[[Any], Any]
"""Multiplies a loss, or what multiplies its gradient, by a constant."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss, and what to differentiate: `tape.gradient(targets, variables, slopes)`."""

    value: Any
    targets: Any
    slopes: Any = None

    def gradients(self, tape: tf.GradientTape, variables: Any) -> list[Any]:
        return list(tape.gradient(self.targets, variables, output_gradients=self.slopes))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The loss of each row, and the gradient of their sum for `outputs`, which are logits or predictions."""

    losses: Any
    outputs: Any
    slopes: Any


def _once(loss: Any) -> Any:
    return loss


def loss_of(
    model: keras.Model, tape: tf.GradientTape, batch: tuple[Any, ...], predicted: Any, scale: Scale = _once
) -> Loss:
    """Return a network's loss, its penalties included. Call it while `tape` records; `scale` is for the gradients."""
    x, y, weight = batch
    with tape.stop_recording():
        short = weight is None and _entry(model) is not None
        parts = _parts_of(model, y, predicted) if short else None
        if parts is not None:
            loss = _mean_of(model, y, parts)
            factor = scale(_weighted(model, 1.0 / tf.cast(_count(y), tf.float32)))
            slopes = [part.slopes * factor for part in parts]
    if parts is None:
        loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight)
        return Loss(loss, scale(loss))
    outputs = [part.outputs for part in parts]
    penalties = [model._aggregate_additional_loss(loss) for loss in model.losses]
    if not penalties:
        return Loss(loss, outputs, slopes)
    penalty = tf.add_n(penalties)
    return Loss(keras.ops.sum([loss, *penalties]), [*outputs, penalty], [*slopes, scale(tf.constant(1.0))])


def shorten_steps(model: keras.Model) -> None:
    """Give a compiled model's `train_step` and `test_step` the short form of its loss, if it has one."""
    own = type(model)
    keras_steps = own.train_step is keras.Model.train_step and own.test_step is keras.Model.test_step
    if keras_steps and own.compute_loss is keras.Model.compute_loss and _entry(model) is not None:
        for step, short in (("train_step", _train_step), ("test_step", _test_step)):
            whole = partial(getattr(own, step), model)
            object.__setattr__(model, step, _step(model, step, short, whole))


def has_short_steps(model: keras.Model) -> bool:
    """Return whether `shorten_steps` has replaced a model's steps."""
    return "train_step" in vars(model)


def _step(
    model: keras.Model, name: str, short: Callable[[keras.Model, Any, Any], Any], whole: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    def step(data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        return whole(data) if weight is not None or several else short(model, x, y)

    step.__name__ = name
    return step


def _train_step(model: keras.Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        predicted = model(x, training=True)
        loss = loss_of(model, tape, (x, y, None), predicted, model.optimizer.scale_loss)
    model._loss_tracker.update_state(loss.value, sample_weight=_count(y))
    weights = model.trainable_weights
    if weights:
        parts = PARTS.get()
        own = [tuple(part.value for part in parts[id(w.value)]) if id(w.value) in parts else w for w in weights]
        model.optimizer.apply_gradients(zip(loss.gradients(tape, own), weights, strict=True))
    return model.compute_metrics(x, y, predicted, sample_weight=None)


def _test_step(model: keras.Model, x: Any, y: Any) -> Any:
    predicted = model(x, training=False)
    parts = _parts_of(model, y, predicted)
    if parts is None:
        loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=None, training=False)
    else:
        penalties = [model._aggregate_additional_loss(loss) for loss in model.losses]
        loss = _mean_of(model, y, parts)
        loss = keras.ops.sum([loss, *penalties]) if penalties else loss
    model._loss_tracker.update_state(loss, sample_weight=_count(y))
    return model.compute_metrics(x, y, predicted, sample_weight=None)


def _count(y: Any) -> Any:
    return tf.shape(tf.nest.flatten(y)[0])[0]


def _mean_of(model: keras.Model, y: Any, parts: list[_Rows]) -> Any:
    sums = [tf.reduce_sum(part.losses) for part in parts]
    return _weighted(model, tf.math.divide_no_nan(tf.add_n(sums), tf.cast(_count(y), tf.float32)))


def _weighted(model: keras.Model, loss: Any) -> Any:
    weight = model._compile_loss._flat_losses[0].loss_weights
    return loss if weight in (None, 1.0) else loss * weight


def _entry(model: keras.Model) -> Any | None:
    """Return the loss of a model with one output, if it has a short form."""
    compiled = model._compile_loss
    entries = [] if compiled is None or not compiled.built else compiled._flat_losses
    if len(entries) != 1 or len(model.outputs or ()) != 1 or model.outputs[0].dtype != "float32":
        return None
    loss, weight = entries[0].loss, entries[0].loss_weights
    plain = loss.reduction == "sum_over_batch_size" and loss.dtype == "float32" and isinstance(weight, float | None)
    return entries[0] if plain and type(loss) in _SHORT else None


def _parts_of(model: keras.Model, y: Any, predicted: Any) -> list[_Rows] | None:
    """Return the losses of a batch's rows: of all, or of its halves, where the predictions were computed in halves.

    None where truth or predictions have another shape than the short form takes.
    """
    (truth,), (output,) = tf.nest.flatten(y), tf.nest.flatten(predicted)
    loss = model._compile_loss._flat_losses[0].loss
    if output.dtype != tf.float32 or output.shape.rank != 2 or getattr(output, "_keras_mask", None) is not None:
        return None
    halves = halves_of(output)
    if halves is None:
        rows = _SHORT[type(loss)](loss, truth, output)
        return None if rows is None else [rows]
    short, truths = partial(_SHORT_IN_HALVES[type(loss)], loss), Halves.of(truth)
    first, second = short(truths.first, halves.first), short(truths.second, halves.second)
    if first is None or second is None:
        return None
    losses = rows_between(first.losses, last=halves.middle)
    counts = tf.cast(tf.minimum(halves.middle, 1), tf.float32)  # 0 for a single row, which is in both halves
    return [replace(first, losses=losses, slopes=first.slopes * counts), second]


def logits_of(predicted: Any, activation: str) -> Any | None:
    """Return the logits that predictions were computed from by an activation, `Sigmoid` or `Softmax`, as Keras does."""
    logits = getattr(predicted, "_keras_logits", None)
    operation = getattr(predicted, "op", None) if tf.is_symbolic_tensor(predicted) else None
    if logits is None and operation is not None and operation.type == activation:
        return operation.inputs[0]
    return logits


def _binary(loss: Any, truth: Any, predicted: Any) -> _Rows | None:
    own = loss._fn_kwargs
    logits = predicted if own["from_logits"] else logits_of(predicted, "Sigmoid")
    if logits is None or own["label_smoothing"] or predicted.shape[1] != 1 or truth.shape.rank != 2:
        return None
    truth = truth if truth.dtype == tf.float32 else tf.cast(truth, tf.float32)
    above = tf.nn.relu(logits) - logits * truth
    losses = above + tf.math.log1p(tf.exp(-tf.abs(logits)))
    probabilities = tf.sigmoid(logits) if own["from_logits"] else predicted
    return _Rows(losses, logits, probabilities - truth)


def _sparse(loss: Any, truth: Any, predicted: Any) -> _Rows | None:
    known = _logits_and_labels(loss, truth, predicted)
    if known is None:
        return None
    logits, labels = known
    losses, slopes = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=labels)
    return _Rows(losses, logits, slopes)


def _sparse_from_probabilities(loss: Any, truth: Any, predicted: Any) -> _Rows | None:
    """Return the losses of `_sparse` from the network's probabilities: faster where there are many rows."""
    known = _logits_and_labels(loss, truth, predicted)
    if known is None:
        return None
    logits, labels = known
    probabilities = tf.nn.softmax(logits) if loss._fn_kwargs["from_logits"] else predicted
    classes = logits.shape[1]
    places = tf.range(tf.size(labels), dtype=labels.dtype) * classes + labels
    # log(sum(exp(logits))) = highest logit - log(its probability), which is at least 1 / classes.
    highest, likeliest = tf.reduce_max(logits, 1), tf.reduce_max(probabilities, 1)
    losses = highest - tf.gather(tf.reshape(logits, [-1]), places) - tf.math.log(likeliest)
    return _Rows(losses, logits, probabilities - tf.one_hot(labels, classes))


def _logits_and_labels(loss: Any, truth: Any, predicted: Any) -> tuple[Any, Any] | None:
    own = loss._fn_kwargs
    logits = predicted if own["from_logits"] else logits_of(predicted, "Softmax")
    whole = truth.dtype in (tf.int32, tf.int64) and (truth.shape.rank == 1 or truth.shape[1:] == (1,))
    if logits is None or not whole or own.get("ignore_class") is not None or own.get("axis", -1) not in (-1, 1):
        return None
    return logits, truth if truth.shape.rank == 1 else tf.reshape(truth, [-1])


def _squared(loss: Any, truth: Any, predicted: Any) -> _Rows | None:
    if predicted.shape[1] != 1 or truth.shape.rank != 2 or truth.shape[1] != 1 or truth.dtype != tf.float32:
        return None
    error = predicted - truth
    return _Rows(tf.square(error), predicted, 2.0 * error)


_SHORT: dict[type, Callable[[Any, Any, Any], _Rows | None]] = {
    keras.losses.BinaryCrossentropy: _binary,
    keras.losses.SparseCategoricalCrossentropy: _sparse,
    keras.losses.MeanSquaredError: _squared,
}
_SHORT_IN_HALVES = {
    **_SHORT,
    keras.losses.SparseCategoricalCrossentropy: _sparse_from_probabilities,
}  # halves are large batches
