"""Dense, activations, embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from fitserve.spec.activations import Activation as ActivationName
from fitserve.spec.initializers import AnyInitializer, GlorotUniform, RandomUniform, Zeros
from fitserve.spec.layers.layer import Kept, Layer, Shape, ShapeRefused, Weight
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer
from fitserve.spec.values import Flag, Int, Number, Positive

# Keras's arguments for fine-tuning and quantizing, which a spec does not offer.
TUNING: dict[str, Any] = {"lora_rank": None, "lora_alpha": None, "quantization_config": None}


# Arrays that an activation keeps for the way back, its output among them (TensorFlow 2.21, read off its graphs);
# any other keeps one, and linear none of its own.
ARRAYS = {
    "leaky_relu": 2.0,
    "silu": 2.0,
    "softplus": 2.0,
    "softsign": 2.0,
    "hard_sigmoid": 2.0,
    "log_sigmoid": 2.0,
    "soft_shrink": 2.5,
    "tanh_shrink": 3.0,
    "hard_tanh": 3.0,
    "sparse_plus": 3.5,
    "mish": 4.0,
    "sparsemax": 4.25,
    "sparse_sigmoid": 1.5,
    "hard_shrink": 1.25,
    "gelu": 5.0,
    "celu": 5.0,
    "hard_silu": 5.0,
    "squareplus": 5.0,
}


def activated(size: int, activation: str) -> Kept:
    """What a layer with a kernel and an activation keeps, `size` numbers coming out of it."""
    if activation == "linear":
        return Kept(inputs=True)
    return Kept(inputs=True, output=True, more=int(size * (ARRAYS.get(activation, 1.0) - 1)))


class Input(Layer):
    """An input of the network, as the features make it; may be left out, for the features are enough to know it."""

    aliases = ("InputLayer",)
    omitted: ClassVar[Mapping[str, Any]] = {
        "batch_size": None,
        "sparse": (False, None),
        "ragged": (False, None),
        "optional": False,
        "input_tensor": None,
    }
    shape: list[Positive]
    dtype: Literal["float32", "int32"] = "float32"

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Self:
        """Keras writes `batch_shape`; its first axis is the batch."""
        config = dict(config)
        batch_shape = config.pop("batch_shape", None) or config.pop("batch_input_shape", None)
        if isinstance(batch_shape, list) and batch_shape:
            config["shape"] = batch_shape[1:]
        if config.get("dtype") in ("int64", "uint8", "int16"):
            config["dtype"] = "int32"
        return super().of_config(config)


class Dense(Layer):
    """`activation(inputs @ kernel + bias)`."""

    omitted: ClassVar[Mapping[str, Any]] = TUNING
    units: Positive
    activation: ActivationName = "linear"
    use_bias: Flag = True
    kernel_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    kernel_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if not inputs[0]:
            raise ShapeRefused("Dense takes rows of at least one number.")
        return (*inputs[0][:-1], self.units)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        bias = [Weight("bias", (self.units,))] if self.use_bias else []
        return [Weight("kernel", (inputs[0][-1], self.units)), *bias]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0]) * self.units

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return activated(math.prod(inputs[0][:-1]) * self.units, self.activation)


class Activation(Layer):
    """An activation function on its own."""

    activation: ActivationName

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return replace(activated(math.prod(output), self.activation), inputs=False)


class Embedding(Layer):
    """A row of learned numbers for each whole number from 0 to `input_dim` - 1."""

    omitted: ClassVar[Mapping[str, Any]] = {**TUNING, "weights": None, "input_length": ...}
    input_dim: Positive
    output_dim: Positive
    embeddings_initializer: AnyInitializer = RandomUniform()
    embeddings_regularizer: AnyRegularizer | None = None
    embeddings_constraint: AnyConstraint | None = None
    mask_zero: Flag = False

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*inputs[0], self.output_dim)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        return [Weight("embeddings", (self.input_dim, self.output_dim))]

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True)


class LeakyReLU(Layer):
    """`x` above 0, `negative_slope * x` below."""

    negative_slope: Number = 0.3

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class ReLU(Layer):
    """`max(x, 0)`, with a ceiling, a slope below and a threshold."""

    max_value: Number | None = None
    negative_slope: Number = 0.0
    threshold: Number = 0.0

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(output=True)


class ELU(Layer):
    """`x` above 0, `alpha * (exp(x) - 1)` below."""

    alpha: Number = 1.0

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(output=True)


class PReLU(Layer):
    """`x` above 0, `alpha * x` below, `alpha` learned for each place."""

    alpha_initializer: AnyInitializer = Zeros()
    alpha_regularizer: AnyRegularizer | None = None
    alpha_constraint: AnyConstraint | None = None
    shared_axes: list[Positive] | None = None

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        shape = list(inputs[0])
        for axis in self.shared_axes or []:
            if axis > len(shape):
                raise ShapeRefused(f"There is no axis {axis} in rows of rank {len(shape)}.")
            shape[axis - 1] = 1
        return [Weight("alpha", tuple(shape))]

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True, more=2 * math.prod(output))


class Softmax(Layer):
    """Shares that sum to 1 along an axis."""

    axis: Int = -1

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(output=True)


class Identity(Layer):
    """Its input."""

    alias = True


class ActivityRegularization(Layer):
    """Its input, with a penalty on its size."""

    alias = True

    l1: Number = 0.0
    l2: Number = 0.0
