"""Many small networks trained as one: every weight gets a leading replica axis.

A small network spends its time between operations, not in them, so that sixteen side by side take
little more than one. Each replica has its own initial weights, order of rows, dropout masks, losses and
metrics; nothing is shared but the clock. A replica whose loss becomes NaN does not touch the others:
each term of the summed loss depends on its own replica's weights alone.

    x       (replicas, batch, columns)     gathered by each replica's own order
    kernel  (replicas, columns, units)     so that a Dense layer is one batched product
    bias    (replicas, 1, units)           broadcast over the batch

`stackable.refusal` says what cannot be stacked; that is trained one network after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from workers.trainer.engine.compiled import BUSY, Logs, Rows, build, executor, work
from workers.trainer.engine.device import threads
from workers.trainer.engine.optimizer_kernels import fuse
from workers.trainer.engine.signature import inputs_of, outputs_of
from workers.trainer.trials.stackable import MERGES, RANDOM, nodes

L = keras.layers


class Stack:
    """`len(members)` networks like the compiled `model`, with the members' initial variables."""

    def __init__(self, model: keras.Model, members: Sequence[keras.Model], rows: Rows, batch_size: int) -> None:
        build(model, rows)
        self.model, self.replicas, self.batch_size = model, len(members), batch_size
        self._own = [*model.trainable_variables, *_statistics(model)]
        theirs = [[*member.trainable_variables, *_statistics(member)] for member in members]
        stacked = [
            keras.Variable(_spread(np.stack([v.value.numpy() for v in same])), name=own.name, trainable=own.trainable)
            for own, *same in zip(self._own, *theirs, strict=True)
        ]
        self._stacked = dict(zip([id(v) for v in self._own], stacked, strict=True))
        self._trainable = [self._stacked[id(v)] for v in model.trainable_variables]
        self.optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        self.optimizer.build(self._trainable)
        fuse(self.optimizer)
        self._loss = [tf.Variable(tf.zeros(self.replicas)) for _ in range(2)]  # sum over rows, rows
        self._seeds = [v for v in model.non_trainable_variables if id(v) not in self._stacked]
        self._call: Any = None
        self._executor = executor(model, batch_size * self.replicas)
        self._groups = _groups(model, self.replicas, batch_size)
        self._names: list[str] = []
        self._cached: list[NDArray[Any]] = []

    @property
    def variables(self) -> list[Any]:
        """All that a stack in training consists of."""
        return [*self._stacked.values(), *self.optimizer.variables, *self._seeds]

    def variable(self, own: Any) -> Any:
        """The stacked variable of one of the model's, `(replicas, ...)`."""
        return self._stacked[id(own)]

    def epoch(self, train: Rows, order: NDArray[np.int32], validation: Rows | None) -> list[Logs]:
        """One epoch of all replicas. `order` is int32 `(replicas, rows)`. Returns the logs of each, as Keras's."""
        held_out = () if validation is None else validation.as_tuple()
        with self._executor():
            if self._call is None:
                self._call = tf.function(self._trace, autograph=False, reduce_retracing=True)
            values = self._call(train.as_tuple(), tf.constant(order), held_out).numpy()
        self._cached = []
        return [{name: float(v) for name, v in zip(self._names, row, strict=True)} for row in values]

    def weights(self, replica: int) -> list[NDArray[Any]]:
        """One replica's weights, in the order of the model's `get_weights`."""
        if not self._cached:
            self._cached = [variable.value.numpy() for variable in self._stacked.values()]
        by_id = dict(zip(self._stacked, self._cached, strict=True))
        return [by_id[id(v)][replica].reshape(v.shape) for v in self.model.weights]

    # --- the compiled epoch -----------------------------------------------------------------------

    def _trace(self, train: Any, order: Any, validation: Any) -> Any:
        logs = self._part(train, order, training=True)
        if validation:
            rows = tf.shape(tf.nest.flatten(validation)[0])[0]
            everyone = tf.tile(tf.range(rows)[None], [self.replicas, 1])
            held_out = self._part(validation, everyone, training=False)
            logs |= {f"val_{name}": value for name, value in held_out.items()}
        self._names = list(logs)
        return tf.stack([tf.cast(value, tf.float64) for value in logs.values()], axis=1)

    def _part(self, data: Any, order: Any, training: bool) -> dict[str, Any]:
        """A pass over some rows: logs by name, each `(replicas,)`."""
        rows = tf.shape(order)[1]
        steps = (rows + self.batch_size - 1) // self.batch_size
        names = list(outputs_of(self.model))
        kept = tuple(tf.TensorArray(tf.float32, size=steps, infer_shape=False) for _ in names)
        for variable in self._loss:
            variable.assign(tf.zeros(self.replicas))

        def body(step: Any, kept: Any) -> Any:
            batch = order[:, step * self.batch_size : tf.minimum(rows, (step + 1) * self.batch_size)]
            x, y, weight = (*tf.nest.map_structure(lambda t: tf.gather(t, batch), data), None)[:3]
            predicted = self._step(x, y, weight, training)
            turned = [tf.transpose(predicted[name], [1, 0, 2]) for name in names]
            return step + 1, tuple(k.write(step, t) for k, t in zip(kept, turned, strict=True))

        _, kept = tf.while_loop(lambda step, _: step < steps, body, (tf.constant(0), kept), parallel_iterations=1)
        predictions = {}
        for (name, tensor), array in zip(outputs_of(self.model).items(), kept, strict=True):
            predictions[name] = tf.ensure_shape(array.concat(), (None, self.replicas, *tensor.shape[1:]))
        results = self._metrics(data[1], order, predictions)
        return {"loss": self._loss[0] / self._loss[1], **results}

    def looked_into(self, x: Any, y: Any, weight: Any = None, *, hidden: list[Any]) -> tuple[Any, list[Any], list[Any]]:
        """Within a compiled function, on `(replicas, rows, ...)`, without training: each replica's penalty, the
        gradient for every trainable variable, and what these tensors of the model are."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values, read = self._values()
            tape.watch(read)
            made = self._made(x, values, training=False)
            penalties = self._penalties(values) + tf.zeros(self.replicas)
            total = tf.reduce_sum(self._losses(y, self._said(made), weight) + penalties)
        return penalties, tape.gradient(total, read), [made[id(tensor)] for tensor in hidden]

    def _values(self) -> tuple[dict[int, Any], list[Any]]:
        """All variables' values by the id of the model's, and those of the trainable ones as tensors."""
        values = {key: variable.value for key, variable in self._stacked.items()}
        read = [tf.convert_to_tensor(values[id(v)]) for v in self.model.trainable_variables]
        return values | {id(v): value for v, value in zip(self.model.trainable_variables, read, strict=True)}, read

    def _step(self, x: Any, y: Any, weight: Any, training: bool) -> dict[str, Any]:
        size = tf.cast(tf.shape(tf.nest.flatten(y)[0])[1], tf.float32)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values, read = self._values()
            tape.watch(read)
            said, losses = [], []
            for own, (gx, gy, gw) in zip(self._split(values), self._split((x, y, weight)), strict=True):
                said.append(self._said(self._made(gx, own, training)))
                losses.append(self._losses(gy, said[-1], gw) + self._penalties(own))
            loss = tf.concat(losses, 0)
            total = tf.reduce_sum(loss)
        self._loss[0].assign_add(loss * size)
        self._loss[1].assign_add(tf.fill([self.replicas], size))
        if training:
            gradients = tape.gradient(total, read)
            self.optimizer.apply_gradients(zip(gradients, self._trainable, strict=True))
        return {name: tf.concat([part[name] for part in said], 0) for name in said[0]}

    def _split(self, tensors: Any) -> list[Any]:
        """The groups' parts of these tensors, `(replicas, ...)` each."""
        if self._groups == 1:
            return [tensors]
        flat = tf.nest.flatten(tensors)
        parts = [[None] * self._groups if t is None else tf.split(t, self._groups) for t in flat]
        return [tf.nest.pack_sequence_as(tensors, [part[group] for part in parts]) for group in range(self._groups)]

    def _made(self, x: Any, values: dict[int, Any], training: bool) -> dict[int, Any]:
        """Every tensor of the network, by the id of the model's."""
        inputs = inputs_of(self.model)
        given = x if isinstance(x, dict) else dict(zip(inputs, tf.nest.flatten(x), strict=True))
        made = {id(tensor): given[name] for name, tensor in inputs.items()}
        for node in nodes(self.model):
            parts = [made[id(tensor)] for tensor in node.arguments.keras_tensors]
            made[id(node.output_tensors[0])] = self._layer(node.operation, parts, values, training)
        return made

    def _said(self, made: dict[int, Any]) -> dict[str, Any]:
        return {name: made[id(tensor)] for name, tensor in outputs_of(self.model).items()}

    def _layer(self, layer: Any, parts: list[Any], values: dict[int, Any], training: bool) -> Any:
        x = parts[0]
        if type(layer) is L.Dense:
            x = tf.matmul(x, values[id(layer.kernel)])
            return layer.activation(x + values[id(layer.bias)] if layer.use_bias else x)
        if type(layer) is L.BatchNormalization:
            return self._batch_normalization(layer, x, values, training)
        if type(layer) is L.LayerNormalization:
            mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
            return _scaled(layer, (x - mean) * tf.math.rsqrt(variance + layer.epsilon), values)
        if type(layer) is L.Concatenate:
            return tf.concat(parts, axis=-1)
        if type(layer) in MERGES:
            return layer._merge_function(parts)
        if type(layer) is L.Dropout and layer.noise_shape is None:
            return _dropout(layer, x) if training and layer.rate > 0 else x
        return layer.call(x, training=training) if type(layer) in RANDOM else layer.call(x)

    def _batch_normalization(self, layer: Any, x: Any, values: dict[int, Any], training: bool) -> Any:
        moving = [self._stacked[id(v)] for v in (layer.moving_mean, layer.moving_variance)]
        if not (training and layer.trainable):
            mean, variance = (v.value for v in moving)
        else:
            mean, variance = tf.nn.moments(x, axes=[1], keepdims=True)
            for variable, new in zip(moving, (mean, variance), strict=True):
                variable.assign(variable.value * layer.momentum + new * (1.0 - layer.momentum))
        return _scaled(layer, (x - mean) * tf.math.rsqrt(variance + layer.epsilon), values)

    def _losses(self, y: Any, predicted: dict[str, Any], weight: Any) -> Any:
        """`(replicas,)`: the weighted sum of the outputs' losses, each Keras's mean over the batch."""
        total: Any = 0.0
        names = list(outputs_of(self.model))
        truth = y if isinstance(y, dict) else dict(zip(names, tf.nest.flatten(y), strict=True))
        for entry, name in zip(self.model._compile_loss._flat_losses, self._loss_order(names), strict=True):
            rows = entry.loss.call(truth[name], predicted[name])
            if weight is not None:
                of_rows = weight[name] if isinstance(weight, dict) else tf.nest.flatten(weight)[0]
                rows = rows * tf.reshape(of_rows, tf.shape(rows))
            mean = tf.reduce_mean(tf.reshape(rows, [tf.shape(predicted[name])[0], -1]), axis=1)
            total += mean if entry.loss_weights is None else mean * entry.loss_weights
        return total

    def _loss_order(self, names: list[str]) -> list[str]:
        """The output of each of Keras's flat losses: the last step of its path, where there is one."""
        paths = [entry.path for entry in self.model._compile_loss._flat_losses]
        return [path[-1] if path and path[-1] in names else names[path[-1] if path else 0] for path in paths]

    def _penalties(self, values: dict[int, Any]) -> Any:
        """`(replicas,)`: what L1 and L2 add to each replica's loss; 0 where there is nothing to add."""
        total: Any = 0.0
        for variable in self.model.trainable_variables:
            if (regularizer := variable.regularizer) is None:
                continue
            value = values[id(variable)]
            value = tf.reshape(value, [tf.shape(value)[0], -1])
            if (l1 := float(getattr(regularizer, "l1", 0.0) or 0.0)) > 0:
                total += l1 * tf.reduce_sum(tf.abs(value), axis=1)
            if (l2 := float(getattr(regularizer, "l2", 0.0) or 0.0)) > 0:
                total += l2 * tf.reduce_sum(tf.square(value), axis=1)
        return total

    def _metrics(self, y: Any, order: Any, predictions: dict[str, Any]) -> dict[str, Any]:
        """Any of Keras's metrics, over a whole pass; predictions are `(rows, replicas, ...)`."""
        compiled = self.model._compile_metrics
        if compiled is None or not compiled.metrics:
            return {}
        if (means := _means_of_rows(compiled, len(predictions))) is not None:
            (truth,), (predicted,) = tf.nest.flatten(y), predictions.values()
            truth, predicted = tf.gather(truth, tf.transpose(order)), tf.cast(predicted, tf.float32)
            rows = [tf.reshape(part, tf.concat([[-1], tf.shape(part)[2:]], 0)) for part in (truth, predicted)]
            rows = [
                tf.ensure_shape(r, (None, *part.shape[2:])) for r, part in zip(rows, (truth, predicted), strict=True)
            ]
            said = {metric.name: metric._fn(*rows, **metric._fn_kwargs) for metric in means}
            by_replica = {name: tf.reshape(v, [tf.shape(order)[1], self.replicas, -1]) for name, v in said.items()}
            return {name: tf.reduce_mean(tf.cast(v, tf.float32), axis=[0, 2]) for name, v in by_replica.items()}
        return self._one_by_one(y, order, predictions)

    def _one_by_one(self, y: Any, order: Any, predictions: dict[str, Any]) -> dict[str, Any]:
        """Replica after replica through the one metric object."""
        names: list[str] = []

        def one(replica: Any) -> Any:
            self.model._compile_metrics.reset_state()
            truth = tf.nest.map_structure(lambda t: tf.gather(t, order[replica]), y)
            own = {name: value[:, replica] for name, value in predictions.items()}
            predicted = tf.nest.pack_sequence_as(y, [own[name] for name in own]) if not isinstance(y, dict) else own
            self.model._compile_metrics.update_state(truth, predicted)
            results = {n: v for n, v in self.model._compile_metrics.result().items() if len(v.shape) == 0}
            names[:] = list(results)
            return tf.stack([tf.cast(value, tf.float32) for value in results.values()])

        values = tf.map_fn(one, tf.range(self.replicas), fn_output_signature=tf.float32, parallel_iterations=1)
        self.model._compile_metrics.reset_state()
        return {name: values[:, place] for place, name in enumerate(names)}


def _means_of_rows(compiled: Any, outputs: int) -> list[Any] | None:
    """The metrics, where each is the mean of a figure of each row: then all replicas' are computed at once."""
    means: type = keras.metrics.MeanMetricWrapper
    plain = all(
        isinstance(metric, means)
        and type(metric).update_state is means.update_state  # type: ignore[attr-defined]
        and type(metric).result is means.result  # type: ignore[attr-defined]
        for metric in compiled.metrics
    )
    named = [metric.name for metric in compiled.metrics] == list(compiled.result())
    return list(compiled.metrics) if plain and named and outputs == 1 else None


def _groups(model: keras.Model, replicas: int, batch_size: int) -> int:
    """Into how many groups a step's replicas are parted, each computed by a thread of its own.

    An operation on all replicas is too small to keep two cores busy; a chain of operations on half of them is not.
    Batch normalisation writes its statistics for all replicas at once.
    """
    together = any(isinstance(layer, L.BatchNormalization) for layer in model.layers)
    if together or work(model, batch_size * replicas) <= BUSY:
        return 1
    most = max(1, min(threads(), replicas // 4))
    return next(groups for groups in range(most, 0, -1) if replicas % groups == 0)


def _statistics(model: keras.Model) -> list[Any]:
    """Weights that are not trained, such as a batch normalisation's moving averages."""
    trainable = {id(v) for v in model.trainable_variables}
    return [v for v in model.weights if id(v) not in trainable]


def _spread(values: NDArray[Any]) -> NDArray[Any]:
    """`(replicas, units)` as `(replicas, 1, units)`, which broadcasts over a batch."""
    return values[:, None] if values.ndim == 2 else values


def _dropout(layer: Any, x: Any) -> Any:
    """Keras's Dropout with 16 random bits an element instead of 32, four elements a drawn word.

    The rate is met to 1 in 65,536. Keras's own took a third of a stacked epoch: it turns bits into floats first.
    """
    size = tf.size(x)
    seed = tf.cast(layer.seed_generator.next(), tf.int64)
    words = tf.random.stateless_uniform([(size + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint64)
    bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size], tf.shape(x))
    kept = tf.where(bits >= tf.constant(round(layer.rate * 65_536), tf.uint16), 1.0 / (1.0 - layer.rate), 0.0)
    return x * kept


def _scaled(layer: Any, x: Any, values: dict[int, Any]) -> Any:
    if layer.scale:
        x = x * values[id(layer.gamma)]
    return x + values[id(layer.beta)] if layer.center else x
