"""Optimizer updates as one kernel for each variable, where TensorFlow has a kernel for Keras's formula.

Keras writes `update_step` as ten or so elementwise operations; each is a pass over memory, and for a small network a
trip through the executor. `fuse` replaces the updates only: clipping, weight decay, moving averages, constraints and
schedules stay Keras's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

Update = Callable[[Any, Any, Sequence[Any]], None]
"""Updates a variable by its gradient, with the variables that the optimizer keeps for it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a weight, and of what the optimizer keeps for it."""

    value: tf.Variable
    kept: Sequence[tf.Variable]


PARTS: ContextVar[Mapping[int, Sequence[Part]]] = ContextVar("parts", default=MappingProxyType({}))
"""The weights whose gradients are tuples, one for each part, by the variable's id: see `split_kernels`."""


def fuse(optimizer: keras.optimizers.Optimizer) -> bool:
    """Give a built `optimizer` the fused kernel of its class.

    Returns whether there is one; otherwise its updates stay Keras's own. The results differ from Keras's by rounding
    only. Sparse gradients (of embeddings) keep Keras's own updates, which change the moments of the batch's rows only;
    no kernel does that.

    With one device, Keras's sum of gradients over devices is skipped: at every trace it registers a gradient function
    with TensorFlow, which keeps the traced graph alive as long as the process.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return False
    optimizer._all_reduce_sum_gradients = list
    kernel = _kernel_of(optimizer)
    if kernel is None:
        return False
    if kernel.update is _rmsprop:
        # Its kernel needs a momentum variable even where momentum is 0 and the variable holds nothing between steps.
        shapes = [] if optimizer.momentum else [velocity.shape for velocity in optimizer._velocities]
        optimizer._unused_momentums = [tf.Variable(tf.zeros(shape)) for shape in shapes]

    def step(gradients: Any, variables: Any, learning_rate: Any) -> None:
        update = kernel.update(optimizer, tf.cast(learning_rate, tf.float32))  # computes once what all variables share
        for gradient, variable in zip(gradients, variables, strict=True):
            value = _value(variable)
            if isinstance(gradient, tuple):
                for own, part in zip(gradient, PARTS.get()[id(value)], strict=True):
                    update(own, part.value, part.kept)
            elif isinstance(gradient, tf.IndexedSlices) or value.dtype != tf.float32:
                optimizer.update_step(gradient, value, learning_rate)
            else:
                update(tf.cast(gradient, tf.float32), value, kernel.kept_for(optimizer, value))

    optimizer._backend_update_step = step
    return True


def kept_for(optimizer: keras.optimizers.Optimizer, variable: tf.Variable) -> list[tf.Variable] | None:
    """Return what a fused optimizer keeps for a weight; None if it does more than a fused update of each weight.

    Where several devices train a network, what replaces its `apply` sums their gradients.
    """
    more = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "gradient_accumulation_steps")
    others = any(getattr(optimizer, name) for name in (*more, "loss_scale_factor"))
    kernel = _kernel_of(optimizer)
    return None if kernel is None or others or "apply" in vars(optimizer) else kernel.kept_for(optimizer, variable)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """How the optimizers of a class update weights.

    `update(optimizer, learning_rate)` returns the update of one weight; `kept(optimizer)` returns the variables that it
    takes beside the weight, in order: one list by weight for each kind.
    """

    update: Callable[[Any, Any], Update]
    kept: Callable[[Any], list[Any]]

    def kept_for(self, optimizer: Any, variable: tf.Variable) -> list[tf.Variable]:
        index = optimizer._get_variable_index(variable)
        return [_value(by_weight[index]) for by_weight in self.kept(optimizer)]


def _kernel_of(optimizer: Any) -> _Kernel | None:
    other = getattr(optimizer, "amsgrad", False) or getattr(optimizer, "centered", False)
    return None if other else _KERNELS.get(type(optimizer))


def _adam(optimizer: Any, learning_rate: Any) -> Update:
    step = tf.cast(optimizer.iterations + 1, tf.float32)
    numbers = (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)
    beta1, beta2, epsilon = (tf.constant(number, tf.float32) for number in numbers)
    beta1_power, beta2_power = tf.pow(beta1, step), tf.pow(beta2, step)

    def update(gradient: Any, variable: Any, kept: Sequence[Any]) -> None:
        momentum, velocity = kept
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=beta1_power,
            beta2_power=beta2_power,
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            grad=gradient,
        )

    return update


def _sgd(optimizer: Any, learning_rate: Any) -> Update:
    def update(gradient: Any, variable: Any, kept: Sequence[Any]) -> None:
        if not kept:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=learning_rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=kept[0].handle,
            lr=learning_rate,
            grad=gradient,
            momentum=optimizer.momentum,
            use_nesterov=optimizer.nesterov,
        )

    return update


def _rmsprop(optimizer: Any, learning_rate: Any) -> Update:
    def update(gradient: Any, variable: Any, kept: Sequence[Any]) -> None:
        velocity, momentum = kept
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=velocity.handle,
            mom=momentum.handle,
            lr=learning_rate,
            rho=optimizer.rho,
            momentum=float(optimizer.momentum),
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    return update


def _value(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


_ADAM = _Kernel(_adam, lambda own: [own._momentums, own._velocities])
_KERNELS: dict[type, _Kernel] = {
    keras.optimizers.Adam: _ADAM,
    keras.optimizers.AdamW: _ADAM,
    keras.optimizers.SGD: _Kernel(_sgd, lambda own: [own.momentums] if own.momentum else []),
    keras.optimizers.RMSprop: _Kernel(_rmsprop, lambda own: [own._velocities, own._unused_momentums or own._momentums]),
}
