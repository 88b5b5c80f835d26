"""Dense, activations, embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from fitserve.spec.activations import Activation as ActivationName
from fitserve.spec.argument_types import Flag, Int, Number, Positive
from fitserve.spec.initializers import AnyInitializer, RandomUniform, Zeros
from fitserve.spec.layers.layer import (
    KernelLayer,
    Layer,
    SavedActivations,
    Shape,
    ShapeRefused,
    UnitsLayer,
    Weight,
    axis_index,
    saved_by_activation,
)
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer

# Keras arguments for fine-tuning and quantizing, which a spec cannot set.
TUNING: dict[str, Any] = {"lora_rank": None, "lora_alpha": None, "quantization_config": None}


class Input(Layer):
    """An input of the network, as the features make it; may be left out."""

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
    def from_keras(cls, config: dict[str, Any]) -> Self:
        # Keras writes `batch_shape`, whose first axis is the batch.
        config = dict(config)
        batch_shape = config.pop("batch_shape", None) or config.pop("batch_input_shape", None)
        if isinstance(batch_shape, list) and batch_shape:
            config["shape"] = batch_shape[1:]
        if config.get("dtype") in ("int64", "uint8", "int16"):
            config["dtype"] = "int32"
        return super().from_keras(config)


class Dense(KernelLayer, UnitsLayer):
    """`activation(inputs @ kernel + bias)`."""

    omitted: ClassVar[Mapping[str, Any]] = TUNING

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if not inputs[0]:
            raise ShapeRefused("Dense takes rows of at least one number.")
        return (*inputs[0][:-1], self.units)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        return [Weight("kernel", (inputs[0][-1], self.units)), *self.bias(self.units)]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0]) * self.units

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return saved_by_activation(math.prod(output), self.activation)


class Activation(Layer):
    """An activation function on its own."""

    activation: ActivationName

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return replace(saved_by_activation(math.prod(output), self.activation), inputs=False)


class Embedding(Layer):
    """A row of learned numbers for each whole number from 0 to `input_dim` - 1."""

    saved = SavedActivations(inputs=True)
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


class LeakyReLU(Layer):
    """`x` above 0, `negative_slope * x` below."""

    saved = SavedActivations(inputs=True, output=True)
    negative_slope: Number = 0.3


class ReLU(Layer):
    """`max(x, 0)`, with a ceiling, a slope below and a threshold."""

    saved = SavedActivations(output=True)
    max_value: Number | None = None
    negative_slope: Number = 0.0
    threshold: Number = 0.0


class ELU(Layer):
    """`x` above 0, `alpha * (exp(x) - 1)` below."""

    saved = SavedActivations(output=True)
    alpha: Number = 1.0


class PReLU(Layer):
    """`x` above 0, `alpha * x` below, with a learned `alpha` for each position."""

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

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(inputs=True, output=True, more=2 * math.prod(output))


class Softmax(Layer):
    """Shares that sum to 1 along an axis."""

    saved = SavedActivations(output=True)
    axis: Int = -1

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        axis_index(self.axis, len(inputs[0]))
        return inputs[0]


class Identity(Layer):
    """Its input."""

    shares_memory = True


class ActivityRegularization(Layer):
    """Its input, with a penalty on its size."""

    shares_memory = True
    l1: Number = 0.0
    l2: Number = 0.0
