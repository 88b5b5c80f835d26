"""Keras layers for `fitserve.spec.layers.tabular`, and equivalent networks of Keras's own layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

L = keras.layers


class Periodic(keras.layers.Layer):
    """`(rows, columns)` to `(rows, columns * units)`."""

    def __init__(
        self, units: int = 8, frequencies: int = 16, sigma: float = 0.1, variant: str = "PBLD", **options: Any
    ) -> None:
        super().__init__(**options)
        self.units, self.frequency_count, self.sigma, self.variant = units, frequencies, sigma, variant

    def build(self, input_shape: Any) -> None:
        columns, count = input_shape[-1], self.frequency_count
        normal = keras.initializers.RandomNormal(0.0, self.sigma)
        self.frequencies = self.add_weight(name="frequencies", shape=(columns, count), initializer=normal)
        self.phases = None
        if self.variant == "PBLD":
            turn = keras.initializers.RandomUniform(-math.pi, math.pi)
            self.phases = self.add_weight(name="phases", shape=(columns, count), initializer=turn)
        waves, units = (count, self.units - 1) if self.variant == "PBLD" else (2 * count, self.units)
        # As Glorot's for one column's own matrix.
        limit = math.sqrt(6.0 / (waves + units))
        kernel = keras.initializers.RandomUniform(-limit, limit)
        self.kernel = self.add_weight(name="kernel", shape=(columns, waves, units), initializer=kernel)
        self.bias = self.add_weight(name="bias", shape=(columns, units), initializer="zeros")

    def call(self, x: Any) -> Any:
        return periodic(self, x, self.frequencies, self.phases, self.kernel, self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], input_shape[-1] * self.units)

    def get_config(self) -> dict[str, Any]:
        own = {"units": self.units, "frequencies": self.frequency_count, "sigma": self.sigma, "variant": self.variant}
        return {**super().get_config(), **own}


def periodic(layer: Any, x: Any, frequencies: Any, phases: Any, kernel: Any, bias: Any) -> Any:
    """Compute a Periodic layer with these weights: `(..., rows, columns)` to `(..., rows, columns * units)`.

    Leading axes of `x` are also leading axes of the weights.
    """
    # Axes: (..., rows, columns, frequencies).
    wide = [ops.expand_dims(weight, -3) for weight in (frequencies, bias)]
    angles = ops.multiply(ops.expand_dims(x, -1), ops.multiply(wide[0], 2 * math.pi))
    if phases is None:
        waves = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    else:
        waves = ops.cos(ops.add(angles, ops.expand_dims(phases, -3)))
    linear = ops.add(ops.einsum("...bik,...iku->...biu", waves, kernel), wide[1])
    units = ops.relu(linear) if phases is None else ops.concatenate([ops.expand_dims(x, -1), linear], axis=-1)
    shape = ops.shape(x)
    return ops.reshape(units, (*shape[:-1], x.shape[-1] * layer.units))


class BatchEnsemble(keras.layers.Layer):
    """`(rows, columns)` or `(rows, members, columns)` to `(rows, members, units)`."""

    def __init__(self, units: int, members: int = 8, random_signs: bool = True, **options: Any) -> None:
        own = {name: options.pop(name) for name in list(options) if name.startswith(("kernel_", "bias_"))}
        activation, use_bias = options.pop("activation", None), options.pop("use_bias", True)
        activity = keras.regularizers.get(options.pop("activity_regularizer", None))
        super().__init__(activity_regularizer=activity, **options)
        self.units, self.members, self.random_signs, self.use_bias = units, members, random_signs, use_bias
        self.activation = keras.activations.get(activation)
        self._own = own

    def build(self, input_shape: Any) -> None:
        columns = input_shape[-1]
        scale = _signs if self.random_signs else "ones"
        self.kernel = self._add("kernel", (columns, self.units))
        self.input_scale = self.add_weight(name="input_scale", shape=(self.members, columns), initializer=scale)
        self.output_scale = self.add_weight(name="output_scale", shape=(self.members, self.units), initializer=scale)
        self.bias = self._add("bias", (self.members, self.units)) if self.use_bias else None

    def _add(self, name: str, shape: tuple[int, ...]) -> Any:
        parts = ("initializer", "regularizer", "constraint")
        return self.add_weight(name=name, shape=shape, **{part: self._own.get(f"{name}_{part}") for part in parts})

    def call(self, x: Any) -> Any:
        x = ops.expand_dims(x, 1) if len(x.shape) == 2 else x
        x = ops.multiply(ops.matmul(ops.multiply(x, self.input_scale), self.kernel), self.output_scale)
        return self.activation(x if self.bias is None else ops.add(x, self.bias))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.members, self.units)

    def get_config(self) -> dict[str, Any]:
        own = {"units": self.units, "members": self.members, "random_signs": self.random_signs}
        more = {"activation": keras.activations.serialize(self.activation), "use_bias": self.use_bias, **self._own}
        return {**super().get_config(), **own, **more}


def _signs(shape: Any, dtype: Any = None) -> Any:
    """Draw -1 or 1."""
    return ops.sign(keras.random.uniform(shape, -1.0, 1.0, dtype=dtype))


CLASSES = {"Periodic": Periodic, "BatchEnsemble": BatchEnsemble}


# As plain layers of Keras's


def with_plain_layers(model: Any) -> Any:
    """Return the same network, with the same weights, built only of Keras's own layers; if it is already, return it."""
    functional = getattr(model, "_functional", None) or model
    if not any(type(layer) in _PLAIN for layer in functional.layers):
        return model

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        plain = _PLAIN.get(type(layer))
        return layer(*arguments, **options) if plain is None else plain(layer, *arguments)

    return keras.models.clone_model(functional, clone_function=lambda layer: layer, call_function=call)


def _einsum(equation: str, bias_axes: str, weights: list[Any], x: Any, activation: Any = None) -> Any:
    """Apply an EinsumDense with these weights, the kernel and, where there is one, the bias."""
    letters = equation.partition("->")[2][1:]
    sizes = dict(zip(equation.partition(",")[2].partition("->")[0], weights[0].shape, strict=True))
    known = {**sizes, **dict(zip(equation.partition(",")[0][1:], x.shape[1:], strict=True))}
    dense = L.EinsumDense(
        equation,
        output_shape=tuple(known[letter] for letter in letters),
        bias_axes=bias_axes if len(weights) > 1 else None,
        activation=activation,
        dtype="float32",
    )
    dense.build(x.shape)
    dense.set_weights(weights)
    return dense(x)


def _plain_ensemble(layer: Any, x: Any) -> Any:
    kernel, into, out = (np.asarray(v) for v in (layer.kernel, layer.input_scale, layer.output_scale))
    kernels = into[:, :, None] * kernel[None] * out[:, None, :]
    weights = [kernels] if layer.bias is None else [kernels, np.asarray(layer.bias)]
    equation = "bi,miu->bmu" if len(x.shape) == 2 else "bmi,miu->bmu"
    return _einsum(equation, "mu", weights, x, layer.activation)


def _plain_periodic(layer: Any, x: Any) -> Any:
    turns = 2 * math.pi * np.asarray(layer.frequencies)
    quarter = np.full_like(turns, math.pi / 2)  # the cosine is the sine of a quarter turn more
    if layer.phases is None:
        turns, phases = np.hstack([turns, turns]), np.hstack([0 * quarter, quarter])
    else:
        phases = np.asarray(layer.phases) + quarter
    waves = ops.sin(_einsum("bi,ik->bik", "ik", [turns, phases], x))
    weights = [np.asarray(layer.kernel), np.asarray(layer.bias)]
    units = _einsum("bik,iku->biu", "iu", weights, waves, "relu" if layer.phases is None else None)
    if layer.phases is not None:
        own = L.Reshape((x.shape[-1], 1), dtype="float32")(x)
        units = L.Concatenate(axis=-1, dtype="float32")([own, units])
    return L.Flatten(dtype="float32")(units)


_PLAIN: dict[type, Callable[[Any, Any], Any]] = {Periodic: _plain_periodic, BatchEnsemble: _plain_ensemble}
