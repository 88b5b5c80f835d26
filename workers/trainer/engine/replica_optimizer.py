"""One optimizer over stacked weights, with separate hyperparameters for each replica.

Every update here is elementwise, so a hyperparameter `(replicas, 1, ...)` broadcasts over a stacked weight.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# Arguments besides learning_rate and weight_decay that may differ within a stack: Keras's formula, or ours, takes them
# as an array. `momentum` decides in Keras's formula which operations there are, so ours replaces it.
VARYING = {
    "SGD": ("momentum",),
    "RMSprop": ("rho", "momentum", "epsilon"),
    "Adam": ("beta_1", "beta_2", "epsilon"),
    "AdamW": ("beta_1", "beta_2", "epsilon"),
    "Adamax": ("beta_1", "beta_2", "epsilon"),
    "Nadam": ("epsilon",),
    "Adagrad": ("epsilon",),
    "Adadelta": ("rho", "epsilon"),
    "Lion": ("beta_1", "beta_2"),
}


class ReplicaOptimizer:
    """Updates stacked variables by `optimizer` as each replica's own, one of `replica_optimizers`, would update it."""

    def __init__(self, optimizer: Any, replica_optimizers: Sequence[Any]) -> None:
        self._optimizer = optimizer
        name = type(optimizer).__name__
        self._arrays = {key: tf.Variable(own) for key, own in _differing(replica_optimizers).items()}
        decays = _decays(replica_optimizers)
        self._decays = tf.Variable(decays) if decays.any() else None
        optimizer.weight_decay = None  # applied here
        rates = _learning_rates(replica_optimizers)
        constant = all(isinstance(rate, float) for rate in rates)
        self._rates: Any = tf.Variable(np.asarray(rates, np.float32)) if constant else rates
        plain = not getattr(optimizer, "amsgrad", False) and not set(self._arrays)
        self._fused = name in ("Adam", "AdamW") and plain
        self._deltas: dict[int, Any] = {}
        if self._fused:
            self._deltas = {id(_raw(v)): tf.Variable(tf.zeros(v.shape)) for v in optimizer._trainable_variables}
        optimizer._all_reduce_sum_gradients = list
        optimizer._backend_update_step = self._step

    def restart(self, replica_optimizers: Sequence[Any]) -> None:
        """Take the hyperparameters of other optimizers, of the same `structure`."""
        for key, values in _differing(replica_optimizers, self._arrays).items():
            self._arrays[key].assign(values)
        if self._decays is not None:
            self._decays.assign(_decays(replica_optimizers))
        self._rates.assign(np.asarray(_learning_rates(replica_optimizers), np.float32))

    def learning_rates(self) -> Any:
        """Return the current learning rate of each replica, `(replicas,)`."""
        if isinstance(self._rates, tf.Variable):
            return tf.convert_to_tensor(self._rates)
        step = self._optimizer.iterations
        now = [rate if isinstance(rate, float) else rate(step) for rate in self._rates]
        return tf.stack([tf.cast(tf.convert_to_tensor(rate), tf.float32) for rate in now])

    def _step(self, gradients: Any, variables: Any, _: Any) -> None:
        rates = self.learning_rates()
        for gradient, variable in zip(gradients, variables, strict=True):
            raw = _raw(variable)
            gradient = tf.convert_to_tensor(gradient)
            shape = [-1] + [1] * (len(raw.shape) - 1)
            rate = tf.reshape(rates, shape)
            if self._decays is not None and self._optimizer._use_weight_decay(variable):
                raw.assign(raw * (1.0 - rate * tf.reshape(self._decays, shape)))
            self._update(gradient, variable, raw, rate, shape)

    def _update(self, gradient: Any, variable: Any, raw: Any, rate: Any, shape: list[int]) -> None:
        optimizer = self._optimizer
        arrays = {key: tf.reshape(array, shape) for key, array in self._arrays.items()}
        if self._fused:
            self._fused_adam(gradient, variable, raw, rate)
        elif isinstance(optimizer, keras.optimizers.SGD):
            self._sgd(gradient, variable, raw, rate, arrays)
        elif isinstance(optimizer, keras.optimizers.RMSprop) and "momentum" in arrays:
            self._rmsprop(gradient, variable, raw, rate, arrays)
        else:
            own = {key: getattr(optimizer, key) for key in arrays}
            for key, array in arrays.items():
                setattr(optimizer, key, array)
            try:
                optimizer.update_step(gradient, raw, rate)
            finally:
                for key, value in own.items():
                    setattr(optimizer, key, value)

    def _fused_adam(self, gradient: Any, variable: Any, raw: Any, rate: Any) -> None:
        """Run TensorFlow's kernel once, at a rate of 1 on zeros, and multiply its update by each replica's rate."""
        optimizer, delta = self._optimizer, self._deltas[id(raw)]
        index = optimizer._get_variable_index(variable)
        step = tf.cast(optimizer.iterations + 1, tf.float32)
        delta.assign(tf.zeros_like(delta))
        tf.raw_ops.ResourceApplyAdam(
            var=delta.handle,
            m=_raw(optimizer._momentums[index]).handle,
            v=_raw(optimizer._velocities[index]).handle,
            beta1_power=tf.pow(tf.constant(optimizer.beta_1, tf.float32), step),
            beta2_power=tf.pow(tf.constant(optimizer.beta_2, tf.float32), step),
            lr=tf.constant(1.0),
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )
        raw.assign_add(delta * rate)

    def _sgd(self, gradient: Any, variable: Any, raw: Any, rate: Any, arrays: dict[str, Any]) -> None:
        optimizer, change = self._optimizer, -rate * gradient
        momentum = arrays.get("momentum", optimizer.momentum)
        if "momentum" not in arrays and not optimizer.momentum:
            raw.assign_add(change)
            return
        velocity = _raw(optimizer.momentums[optimizer._get_variable_index(variable)])
        velocity.assign(momentum * velocity + change)
        raw.assign_add(momentum * velocity + change if optimizer.nesterov else velocity)

    def _rmsprop(self, gradient: Any, variable: Any, raw: Any, rate: Any, arrays: dict[str, Any]) -> None:
        optimizer = self._optimizer
        index = optimizer._get_variable_index(variable)
        rho, epsilon = (arrays.get(key, getattr(optimizer, key)) for key in ("rho", "epsilon"))
        velocity, momentum = _raw(optimizer._velocities[index]), _raw(optimizer._momentums[index])
        velocity.assign(rho * velocity + (1.0 - rho) * tf.square(gradient))
        spread = velocity
        if optimizer.centered:
            average = _raw(optimizer._average_gradients[index])
            average.assign(rho * average + (1.0 - rho) * gradient)
            spread = velocity - tf.square(average)
        momentum.assign(arrays["momentum"] * momentum + rate * gradient / tf.sqrt(spread + epsilon))
        raw.assign_sub(momentum)


def structure(replica_optimizers: Sequence[Any]) -> list[Any] | None:
    """Return the constants that these optimizers are traced with; None if one of them has a schedule."""
    if not all(isinstance(rate, float) for rate in _learning_rates(replica_optimizers)):
        return None
    differing, config = sorted(_differing(replica_optimizers)), widest(replica_optimizers).get_config()
    for key in ("name", "learning_rate", "weight_decay", *differing):
        config.pop(key, None)
    return [type(replica_optimizers[0]).__name__, config, differing, bool(_decays(replica_optimizers).any())]


def differing(replica_optimizers: Sequence[Any]) -> list[str]:
    """Return the names of the arguments in which the optimizers differ, besides learning rate and weight decay."""
    return sorted(_differing(replica_optimizers))


def _differing(
    replica_optimizers: Sequence[Any], keys: Collection[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return the values, `(replicas,)` each, of the arguments in which the optimizers differ, or of `keys`."""
    names = VARYING.get(type(replica_optimizers[0]).__name__, ())
    values = {key: [getattr(one, key) for one in replica_optimizers] for key in names}
    return {
        key: np.asarray(own, np.float32)
        for key, own in values.items()
        if (len(set(own)) > 1 if keys is None else key in keys)
    }


def _decays(replica_optimizers: Sequence[Any]) -> NDArray[np.float32]:
    return np.asarray([one.weight_decay or 0.0 for one in replica_optimizers], np.float32)


def _learning_rates(replica_optimizers: Sequence[Any]) -> list[Any]:
    """Return the learning rate of each: a number, or a schedule."""
    schedules = keras.optimizers.schedules.LearningRateSchedule
    rates = [one._learning_rate for one in replica_optimizers]
    return [rate if isinstance(rate, schedules) else float(keras.ops.convert_to_numpy(rate)) for rate in rates]


def widest(replica_optimizers: Sequence[Any]) -> Any:
    """Return an optimizer with every slot that any of them has: momentum is 0 in some, not in others."""
    config = replica_optimizers[0].get_config()
    if "momentum" in config:
        config["momentum"] = max(one.momentum for one in replica_optimizers)
    return type(replica_optimizers[0]).from_config(config)


def _raw(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
