"""Optimizer updates as one kernel a variable, where TensorFlow has the kernel for Keras's formula.

Keras writes `update_step` as ten or so elementwise operations; each is a pass over memory, and for
a small network a trip through the executor. `fuse` swaps `update_step` alone: clipping, weight
decay, moving averages, constraints and schedules stay Keras's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Update = Callable[[Any, Any, Any], None]


def fuse(optimizer: keras.optimizers.Optimizer) -> bool:
    """Give a built `optimizer` the fused kernel of its class.

    Returns whether there is one; otherwise its updates stay as they were. The results differ from
    Keras's by rounding alone. Sparse gradients (embeddings) keep Keras's own path.
    """
    _alone(optimizer)
    make = _KERNELS.get(type(optimizer))
    if make is None or getattr(optimizer, "amsgrad", False) or getattr(optimizer, "centered", False):
        return False
    kernel, plain = make(optimizer), optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        if isinstance(gradient, tf.IndexedSlices) or variable.dtype != tf.float32:
            plain(gradient, variable, learning_rate)
        else:
            kernel(tf.cast(gradient, tf.float32), variable, tf.cast(learning_rate, tf.float32))

    optimizer.update_step = update_step
    return True


def _alone(optimizer: Any) -> None:
    """One replica has nothing to sum over.

    Keras's sum over replicas registers a gradient function with TensorFlow at every trace, and that keeps the traced
    graph alive for as long as the process lives.
    """

    def step(gradients: Any, variables: Any, learning_rate: Any) -> None:
        for gradient, variable in zip(gradients, variables, strict=True):
            value = variable.value if isinstance(variable, keras.Variable) else variable
            optimizer.update_step(gradient, value, learning_rate)

    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        optimizer._backend_update_step = step


def _handle(variable: Any) -> Any:
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def _adam(optimizer: Any) -> Update:
    def update(gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = optimizer._get_variable_index(variable)
        step = tf.cast(optimizer.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(optimizer._momentums[index]),
            v=_handle(optimizer._velocities[index]),
            beta1_power=tf.pow(tf.constant(optimizer.beta_1, tf.float32), step),
            beta2_power=tf.pow(tf.constant(optimizer.beta_2, tf.float32), step),
            lr=learning_rate,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    return update


def _sgd(optimizer: Any) -> Update:
    def update(gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not optimizer.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=_handle(variable), alpha=learning_rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=_handle(variable),
            accum=_handle(optimizer.momentums[optimizer._get_variable_index(variable)]),
            lr=learning_rate,
            grad=gradient,
            momentum=optimizer.momentum,
            use_nesterov=optimizer.nesterov,
        )

    return update


def _rmsprop(optimizer: Any) -> Update:
    # The kernel wants a momentum slot even where momentum is 0 and the slot carries nothing from step to step.
    spare = [] if optimizer.momentum else [tf.Variable(tf.zeros(v.shape)) for v in optimizer._velocities]

    def update(gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = optimizer._get_variable_index(variable)
        tf.raw_ops.ResourceApplyRMSProp(
            var=_handle(variable),
            ms=_handle(optimizer._velocities[index]),
            mom=_handle((spare or optimizer._momentums)[index]),
            lr=learning_rate,
            rho=optimizer.rho,
            momentum=float(optimizer.momentum),
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    return update


_KERNELS: dict[type, Callable[[Any], Update]] = {
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.SGD: _sgd,
    keras.optimizers.RMSprop: _rmsprop,
}
