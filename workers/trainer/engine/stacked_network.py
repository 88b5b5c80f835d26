"""Many small networks trained as one: every weight gets a leading replica axis.

A small network spends its time between operations, not in them, so sixteen side by side take little more than one.
Each replica has its own initial weights, order of rows, dropout masks, losses and metrics; only the steps are shared.
A replica whose loss becomes NaN does not affect the others: each term of the summed loss depends on its own replica's
weights alone.

    x       (replicas, batch, columns)     gathered by each replica's own order
    kernel  (replicas, columns, units)     so that a Dense layer is one batched product
    bias    (replicas, 1, units)           broadcast over the batch

Networks that `stackable.stacking_obstacle` names a reason for are trained one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from workers.trainer.engine.compiled import Logs, RowTensors, build, row_specs, take_over
from workers.trainer.engine.device import threads
from workers.trainer.engine.dropout import drop
from workers.trainer.engine.executors import MULTITHREADED_STEP, Executor, work
from workers.trainer.engine.initial_values import State, state_of
from workers.trainer.engine.network import inputs_of, nodes_of, outputs_of, spec_name
from workers.trainer.engine.optimizer_kernels import fuse
from workers.trainer.engine.replica_optimizer import ReplicaOptimizer, widest
from workers.trainer.engine.replica_settings import ReplicaSettings
from workers.trainer.engine.stackable import MERGES, RANDOM
from workers.trainer.engine.stacked_losses import losses_by_replica, own_penalties_by_replica, penalties_by_replica
from workers.trainer.engine.stacked_metrics import metrics_by_replica, pooled_metrics
from workers.trainer.engine.tabular_layers import Periodic, periodic

L = keras.layers
HELD_OUT_ROWS = 2048  # rows predicted at once by each replica


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """The rows that each replica was held back from: `order` into `rows`, `known` 1.0 where it is one of them.

    Both are `(replicas, most)`: the replicas may have different numbers of them.
    """

    rows: RowTensors
    order: NDArray[np.int32]
    known: NDArray[np.float32]

    @classmethod
    def of(cls, rows: RowTensors, by_replica: Sequence[NDArray[Any]]) -> HeldOutRows:
        """From the numbers of each replica's rows in `rows`."""
        most = max(len(own) for own in by_replica)
        order, known = np.zeros((len(by_replica), most), np.int32), np.zeros((len(by_replica), most), np.float32)
        for replica, own in enumerate(by_replica):
            order[replica, : len(own)], known[replica, : len(own)] = own, 1.0
        return cls(rows, order, known)


class StackedNetwork:
    """`len(members)` networks like the compiled `model`, with the members' initial variables."""

    def __init__(
        self,
        model: keras.Model,
        members: Sequence[keras.Model | State],
        rows: RowTensors,
        batch_size: int,
        settings: ReplicaSettings | None = None,
    ) -> None:
        """Stack members, each a network or the values of the model's `state_of`.

        `settings` are hyperparameters of each member's own; left out: all have the model's.
        """
        build(model, rows)
        self.model, self.batch_size = model, batch_size
        self._own = [*model.trainable_variables, *_statistics(model)]
        self._dropouts = {spec_name(layer): layer for layer in model.layers if _drops(layer)}
        self._cached: list[NDArray[Any]] = []
        self._settings: ReplicaSettings | None = settings
        self._create(*self._initial(members), settings)

    def restart(self, members: Sequence[keras.Model | State], settings: ReplicaSettings | None = None) -> None:
        """Start again with the same number of members, and with settings of the same structure, or the model's rate."""
        weights, masks = self._initial(members)
        variables = [*self._stacked.values(), *self._masks.values(), *self.optimizer.variables]
        for variable, value in zip(variables, [*weights, *masks, *self._first], strict=True):
            variable.assign(value)
        self._cached = []
        if settings is not None and self._own_rates is not None:
            self._settings = settings
            self._own_rates.restart(settings.optimizers)
            for key, own in _numbers_of(settings).items():
                self._numbers[key].assign(own)
        elif isinstance(self.model.optimizer.learning_rate, keras.Variable):
            self.optimizer.learning_rate.assign(self.model.optimizer.learning_rate.value)

    def _initial(self, members: Sequence[keras.Model | State]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """Return the members' values, stacked: of weights, and of the states of Dropout's seed generators."""
        generators = [getattr(layer, "seed_generator", None) for layer in self._dropouts.values()]
        states = [getattr(generator, "state", None) for generator in generators]
        places = {id(variable): place for place, variable in enumerate(state_of(self.model))}
        weights: list[list[NDArray[Any]]] = []
        masks: list[list[NDArray[Any]]] = []
        for member in members:
            if isinstance(member, keras.Model):
                weights.append([v.value.numpy() for v in (*member.trainable_variables, *_statistics(member))])
                masks.append([_generator_state(layer) for layer in member.layers if _drops(layer)])
            else:
                weights.append([member[places[id(variable)]] for variable in self._own])
                masks.append([np.zeros(2, np.int64) if s is None else member[places[id(s)]] for s in states])
        return (
            [_spread(np.stack(same)) for same in zip(*weights, strict=True)],
            [np.stack(same).astype(np.int64) for same in zip(*masks, strict=True)],
        )

    def _create(
        self, weights: Sequence[NDArray[Any]], masks: Sequence[NDArray[Any]], settings: ReplicaSettings | None
    ) -> None:
        """Make the stacked variables, and what depends on their number."""
        model = self.model
        self.replicas = len(weights[0])
        self._settings = settings
        stacked = [
            keras.Variable(values, name=own.name, trainable=own.trainable)
            for own, values in zip(self._own, weights, strict=True)
        ]
        self._stacked = dict(zip([id(v) for v in self._own], stacked, strict=True))
        self._trainable = [self._stacked[id(v)] for v in model.trainable_variables]
        # The states of Dropout's seed generators, `(replicas, 2)`, by layer.
        self._masks = {
            name: keras.Variable(values, trainable=False, dtype="int64", name="masks")
            for name, values in zip(self._dropouts, masks, strict=True)
        }
        self.optimizer = (
            type(model.optimizer).from_config(model.optimizer.get_config())
            if settings is None
            else widest(settings.optimizers)
        )
        self.optimizer.build(self._trainable)
        self._own_rates: ReplicaOptimizer | None = None
        if settings is None:
            fuse(self.optimizer)
        else:
            self._own_rates = ReplicaOptimizer(self.optimizer, settings.optimizers)
        self._numbers = {key: tf.Variable(own) for key, own in _numbers_of(settings).items()}
        self._loss = [tf.Variable(tf.zeros(self.replicas)) for _ in range(2)]  # sum over rows, rows
        generators = (getattr(layer, "seed_generator", None) for layer in self._dropouts.values())
        masked = {id(generator.state) for generator in generators if generator is not None}
        of_others = [v for v in model.non_trainable_variables if id(v) not in self._stacked]
        self._seeds = [v for v in of_others if id(v) not in masked]
        self._first = [variable.value.numpy() for variable in self.optimizer.variables]
        self._traced: dict[str, Any] = {}  # traced functions, by the signature of their arguments
        self._executor = Executor(model, self.batch_size * self.replicas)
        self._groups = _groups(model, self.replicas, self.batch_size)
        self._names: list[str] = []
        self._cached = []

    def keep(self, replicas: Sequence[int]) -> None:
        """Continue with these replicas only; drop the others from the stack."""
        rows = list(replicas)
        weights = [variable.value.numpy()[rows] for variable in self._stacked.values()]
        masks = [variable.value.numpy()[rows] for variable in self._masks.values()]
        before = [variable.value.numpy() for variable in self.optimizer.variables]
        settings = self._settings.of_some(rows) if self._settings is not None else None
        self._create(weights, masks, settings)
        for variable, value in zip(self.optimizer.variables, before, strict=True):
            variable.assign(value if tuple(variable.shape) == value.shape and not value.ndim else value[rows])

    def switch_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Continue with another optimizer. One of the same class takes over the state, except the learning rate."""
        optimizer.build(self._trainable)
        take_over(self.optimizer, optimizer)
        fuse(optimizer)
        self.optimizer = optimizer
        self._traced.clear()

    def learning_rates(self) -> list[float]:
        """Return the current learning rate of each replica."""
        if self._own_rates is None:
            return [float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))] * self.replicas
        return [float(rate) for rate in self._own_rates.learning_rates().numpy()]

    @property
    def variables(self) -> list[Any]:
        """Everything that a checkpoint of the training must hold."""
        return [*self._stacked.values(), *self.optimizer.variables, *self._masks.values(), *self._seeds]

    def stacked_variable(self, own: Any) -> Any:
        """Return the stacked counterpart of one of the model's variables, `(replicas, ...)`."""
        return self._stacked[id(own)]

    def epoch(self, train: RowTensors, order: NDArray[np.int32], validation: RowTensors | None) -> list[Logs]:
        """Train all replicas for an epoch. `order` is int32 `(replicas, rows)`. Returns the logs of each."""
        held_out = () if validation is None else validation.as_tuple()
        with self._executor(order.shape[1] / self.batch_size):
            values = self._run(self._trace, train.as_tuple(), tf.constant(order), held_out).numpy()
        self._cached = []
        return [{name: float(v) for name, v in zip(self._names, row, strict=True)} for row in values]

    def weights(self, replica: int) -> list[NDArray[Any]]:
        """Return one replica's weights, in the order of the model's `get_weights`."""
        if not self._cached:
            self._cached = [variable.value.numpy() for variable in self._stacked.values()]
        by_id = dict(zip(self._stacked, self._cached, strict=True))
        return [by_id[id(v)][replica].reshape(v.shape) for v in self.model.weights]

    def assign(self, values: Sequence[NDArray[Any]]) -> None:
        """Give all replicas other weights, `(replicas, ...)` each, in the order of `stacked_weights`."""
        for variable, value in zip(self._stacked.values(), values, strict=True):
            variable.assign(value)
        self._cached = []

    @property
    def stacked_weights(self) -> list[Any]:
        """The weights of all replicas, `(replicas, ...)` each."""
        return list(self._stacked.values())

    def pooled_epoch(
        self, train: RowTensors, order: NDArray[np.int32], held_out: HeldOutRows | None
    ) -> tuple[Logs, NDArray[np.float64]]:
        """Train all replicas for an epoch, each on rows of its own: `order` is int32 `(replicas, rows)`.

        Returns the logs of all replicas' rows together, and each replica's loss on the rows it was held back from
        (on its training rows where none are).
        """
        arguments: tuple[Any, ...] = ()
        if held_out is not None:
            arguments = (held_out.rows.as_tuple(), tf.constant(held_out.order), tf.constant(held_out.known))
        with self._executor(order.shape[1] / self.batch_size):
            values, losses = self._run(self._trace_pooled, train.as_tuple(), tf.constant(order), arguments)
        self._cached = []
        logs = {name: float(value) for name, value in zip(self._names, values.numpy(), strict=True)}
        return logs, losses.numpy().astype(np.float64)

    # --- the compiled epoch -----------------------------------------------------------------------

    def _run(self, function: Any, train: Any, order: Any, held_out: Any) -> Any:
        """Call a function as a graph, traced once for rows like these, however many."""
        key = f"{function.__name__} {bool(held_out)}"
        if key not in self._traced:
            of_replicas = tf.TensorSpec((self.replicas, None), tf.int32)
            specs = row_specs(held_out)
            if function == self._trace_pooled and held_out:
                specs = (row_specs(held_out[0]), of_replicas, tf.TensorSpec((self.replicas, None), tf.float32))
            traced = tf.function(function, autograph=False).get_concrete_function(row_specs(train), of_replicas, specs)
            self._traced[key] = traced, self._names
        call, self._names = self._traced[key]
        return call(train, order, held_out)

    def _trace_pooled(self, train: Any, order: Any, held_out: Any) -> tuple[Any, Any]:
        predictions, loss = self._pass(train, order, self.batch_size, training=True)
        logs = {"loss": tf.reduce_mean(loss), **pooled_metrics(self.model, train[1], order, predictions)}
        if held_out:
            rows, order, known = held_out
            predictions, loss = self._pass(rows, order, HELD_OUT_ROWS, training=False, known=known)
            counts = tf.reduce_sum(known, axis=1)
            pooled = tf.reduce_sum(loss * counts) / tf.reduce_sum(counts)
            metrics = pooled_metrics(self.model, rows[1], order, predictions, known)
            logs |= {"val_loss": pooled, **{f"val_{name}": value for name, value in metrics.items()}}
        self._names = list(logs)
        return tf.stack([tf.cast(value, tf.float64) for value in logs.values()]), loss

    def _trace(self, train: Any, order: Any, validation: Any) -> Any:
        logs = self._part(train, order, training=True)
        if validation:
            rows = tf.shape(tf.nest.flatten(validation)[0])[0]
            in_order = tf.tile(tf.range(rows)[None], [self.replicas, 1])
            held_out = self._part(validation, in_order, training=False)
            logs |= {f"val_{name}": value for name, value in held_out.items()}
        self._names = list(logs)
        return tf.stack([tf.cast(value, tf.float64) for value in logs.values()], axis=1)

    def _part(self, data: Any, order: Any, training: bool) -> dict[str, Any]:
        """Pass over some rows. Returns logs by name, each `(replicas,)`."""
        predictions, loss = self._pass(data, order, self.batch_size, training)
        return {"loss": loss, **metrics_by_replica(self.model, data[1], order, predictions)}

    def _pass(
        self, data: Any, order: Any, size: int, training: bool, known: Any | None = None
    ) -> tuple[dict[str, Any], Any]:
        """Pass over some rows in batches of `size`. `known`, `(replicas, rows)`, is 1 for the rows that count.

        Returns predictions by output, `(rows, replicas, units)`, and each replica's mean loss, `(replicas,)`.
        """
        rows = tf.shape(order)[1]
        steps = (rows + size - 1) // size
        names = list(outputs_of(self.model))
        arrays = tuple(tf.TensorArray(tf.float32, size=steps, infer_shape=False) for _ in names)
        for variable in self._loss:
            variable.assign(tf.zeros(self.replicas))

        def body(step: Any, arrays: Any) -> Any:
            part = slice(step * size, tf.minimum(rows, (step + 1) * size))
            batch = order[:, part]
            x, y, weight = (*tf.nest.map_structure(lambda t: tf.gather(t, batch), data), None)[:3]
            predicted = self._step(x, y, weight, training, None if known is None else known[:, part])
            rows_first = [tf.transpose(predicted[name], [1, 0, 2]) for name in names]
            return step + 1, tuple(a.write(step, t) for a, t in zip(arrays, rows_first, strict=True))

        _, arrays = tf.while_loop(lambda step, _: step < steps, body, (tf.constant(0), arrays), parallel_iterations=1)
        predictions = {}
        for (name, tensor), array in zip(outputs_of(self.model).items(), arrays, strict=True):
            predictions[name] = tf.ensure_shape(array.concat(), (None, self.replicas, *tensor.shape[1:]))
        return predictions, self._loss[0] / tf.maximum(self._loss[1], 1.0)

    def inspect(self, x: Any, y: Any, weight: Any = None, *, hidden: list[Any]) -> tuple[Any, list[Any], list[Any]]:
        """Forward and backward pass without training, to be traced; tensors are `(replicas, rows, ...)`.

        Returns each replica's penalty, the gradient for every trainable variable, and the values of these `hidden`
        tensors of the model.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values, trainable = self._values()
            tape.watch(trainable)
            tensors = self._forward(x, values, training=False)
            penalties = self._penalties(values) + tf.zeros(self.replicas)
            total = tf.reduce_sum(self._losses(y, self._outputs(tensors), weight, values) + penalties)
        return penalties, tape.gradient(total, trainable), [tensors[id(tensor)] for tensor in hidden]

    def _values(self) -> tuple[dict[int, Any], list[Any]]:
        """Return the values of all variables by the id of the model's, and those of the trainable ones as tensors."""
        values = {key: variable.value for key, variable in self._stacked.items()} | self._setting_values()
        trainable = [tf.convert_to_tensor(values[id(v)]) for v in self.model.trainable_variables]
        values |= {id(v): value for v, value in zip(self.model.trainable_variables, trainable, strict=True)}
        return values, trainable

    def _setting_values(self) -> dict[int, Any]:
        """Return the settings that differ between replicas, `(replicas, ...)`, by `_setting_key`."""
        values: dict[tuple[str, str], Any] = {}
        for name, states in self._masks.items():
            values["mask", name] = states.value
            if ("rate", name) not in self._numbers:
                values["rate", name] = tf.constant([self._dropouts[name].rate] * self.replicas, tf.float32)
        values |= {key: tf.convert_to_tensor(own) for key, own in self._numbers.items()}
        self._setting_keys = {key: -1 - index for index, key in enumerate(values)}
        return {self._setting_keys[key]: value for key, value in values.items()}

    def _setting(self, values: dict[int, Any], kind: str, name: str) -> Any:
        """Return one of `_setting_values`; None if it does not differ between replicas."""
        return values.get(self._setting_keys.get((kind, name), 0))

    def _losses(
        self, y: Any, predicted: dict[str, Any], weight: Any, values: dict[int, Any], known: Any | None = None
    ) -> Any:
        return losses_by_replica(
            self.model, y, predicted, weight, lambda output: self._setting(values, "smoothing", output), known
        )

    def _penalties(self, values: dict[int, Any]) -> Any:
        if self._settings is None:
            return penalties_by_replica(self.model, values)
        return own_penalties_by_replica(self.model, values, lambda name: self._setting(values, "penalty", name))

    def _step(self, x: Any, y: Any, weight: Any, training: bool, known: Any | None = None) -> dict[str, Any]:
        size = tf.cast(tf.shape(tf.nest.flatten(y)[0])[1], tf.float32)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values, trainable = self._values()
            tape.watch(trainable)
            outputs, losses = [], []
            parts = (self._split(values), self._split((x, y, weight, known)))
            for own, (gx, gy, gw, gk) in zip(*parts, strict=True):
                outputs.append(self._outputs(self._forward(gx, own, training)))
                losses.append(self._losses(gy, outputs[-1], gw, own, gk) + self._penalties(own))
            loss = tf.concat(losses, 0)
            total = tf.reduce_sum(loss)
        counts = tf.fill([self.replicas], size) if known is None else tf.reduce_sum(known, axis=1)
        self._loss[0].assign_add(loss * counts)
        self._loss[1].assign_add(counts)
        if training:
            for states in self._masks.values():
                states.assign(states.value + tf.constant([[0, 1]], states.value.dtype))
            gradients = tape.gradient(total, trainable)
            self.optimizer.apply_gradients(zip(gradients, self._trainable, strict=True))
        return {name: tf.concat([part[name] for part in outputs], 0) for name in outputs[0]}

    def _split(self, tensors: Any) -> list[Any]:
        """Split tensors `(replicas, ...)` into the groups' parts."""
        if self._groups == 1:
            return [tensors]
        flat = tf.nest.flatten(tensors)
        parts = [[None] * self._groups if t is None else tf.split(t, self._groups) for t in flat]
        return [tf.nest.pack_sequence_as(tensors, [part[group] for part in parts]) for group in range(self._groups)]

    def _forward(self, x: Any, values: dict[int, Any], training: bool) -> dict[int, Any]:
        """Return every tensor of the network, by the id of the model's."""
        inputs = inputs_of(self.model)
        by_name = x if isinstance(x, dict) else dict(zip(inputs, tf.nest.flatten(x), strict=True))
        tensors = {id(tensor): by_name[name] for name, tensor in inputs.items()}
        for node in nodes_of(self.model):
            parts = [tensors[id(tensor)] for tensor in node.arguments.keras_tensors]
            tensors[id(node.output_tensors[0])] = self._layer(node.operation, parts, values, training)
        return tensors

    def _outputs(self, tensors: dict[int, Any]) -> dict[str, Any]:
        return {name: tensors[id(tensor)] for name, tensor in outputs_of(self.model).items()}

    def _layer(self, layer: Any, parts: list[Any], values: dict[int, Any], training: bool) -> Any:
        x = parts[0]
        if type(layer) is L.Dense:
            x = tf.matmul(x, values[id(layer.kernel)])
            return layer.activation(x + values[id(layer.bias)] if layer.use_bias else x)
        if type(layer) is L.Embedding:
            return tf.gather(values[id(layer.embeddings)], tf.cast(x, tf.int32), batch_dims=1)
        if type(layer) is L.Flatten:
            return tf.reshape(x, [*tf.unstack(tf.shape(x)[:2]), layer.output.shape[-1]])
        if type(layer) is Periodic:
            named = (layer.frequencies, layer.phases, layer.kernel, layer.bias)
            return periodic(layer, x, *(None if v is None else values[id(v)] for v in named))
        if type(layer) is L.BatchNormalization:
            return self._batch_normalization(layer, x, values, training)
        if type(layer) is L.LayerNormalization:
            mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
            return _scaled(layer, (x - mean) * tf.math.rsqrt(variance + layer.epsilon), values)
        if type(layer) is L.Concatenate:
            return tf.concat(parts, axis=-1)
        if type(layer) in MERGES:
            return layer._merge_function(parts)
        if _drops(layer):
            name = spec_name(layer)
            some = layer.rate > 0 if self._settings is None else any(self._settings.rates.get(name, ()))
            if not (training and some):
                return x
            return drop(x, self._setting(values, "rate", name), self._setting(values, "mask", name))
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


def _groups(model: keras.Model, replicas: int, batch_size: int) -> int:
    """Return the number of groups that a step's replicas are split into, each computed by a thread of its own.

    An operation on all replicas is too small to keep two cores busy; a chain of operations on half of them is not.
    Batch normalisation writes its statistics for all replicas at once, and cannot be split.
    """
    indivisible = any(isinstance(layer, L.BatchNormalization) for layer in model.layers)
    if indivisible or work(model, batch_size * replicas) <= MULTITHREADED_STEP:
        return 1
    most = max(1, min(threads(), replicas // 4))
    return next(groups for groups in range(most, 0, -1) if replicas % groups == 0)


def _statistics(model: keras.Model) -> list[Any]:
    """Return weights that are not trained, such as the moving averages of a batch normalisation."""
    trainable = {id(v) for v in model.trainable_variables}
    return [v for v in model.weights if id(v) not in trainable]


def _spread(values: NDArray[Any]) -> NDArray[Any]:
    """Return `(replicas, units)` as `(replicas, 1, units)`, which broadcasts over a batch."""
    return values[:, None] if values.ndim == 2 else values


def _numbers_of(settings: ReplicaSettings | None) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Return what differs between replicas besides weights and optimizers, `(replicas, ...)`, by kind and name."""
    if settings is None:
        return {}
    penalties = {f"{layer}/{variable}": own for (layer, variable), own in settings.penalties.items()}
    kinds: dict[str, dict[str, Any]] = {"rate": settings.rates, "penalty": penalties, "smoothing": settings.smoothing}
    return {
        (kind, name): np.asarray(own, np.float32) for kind, own_kind in kinds.items() for name, own in own_kind.items()
    }


def _drops(layer: Any) -> bool:
    return type(layer) is L.Dropout and layer.noise_shape is None


def _generator_state(layer: Any) -> NDArray[Any]:
    """Return the state of a Dropout's seed generator; Keras makes none at a rate of 0, which needs no masks."""
    generator = getattr(layer, "seed_generator", None)
    return np.zeros(2, np.int64) if generator is None else generator.state.value.numpy().astype(np.int64)


def _scaled(layer: Any, x: Any, values: dict[int, Any]) -> Any:
    if layer.scale:
        x = x * values[id(layer.gamma)]
    return x + values[id(layer.beta)] if layer.center else x
