"""Base classes of all layers: shapes, weights, work and memory, without TensorFlow; arguments that layers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fitserve.spec.activations import Activation
from fitserve.spec.argument_types import Flag, Positive, shape_of
from fitserve.spec.component import Component
from fitserve.spec.initializers import AnyInitializer, Constant, GlorotUniform, Initializer, Zeros
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer, OrthogonalRegularizer

Shape = tuple[int, ...]  # without the batch


class ShapeRefused(ValueError):
    """These inputs do not fit this layer."""

    def __init__(self, detail: str, fix: str | None = None) -> None:
        super().__init__(detail)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Weight:
    """One array of weights, named as in the layer's arguments (`kernel`, `bias`)."""

    name: str
    shape: Shape
    trainable: bool = True

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SavedActivations:
    """Activations kept for the backward pass: the inputs, the output, and `more` numbers for each row."""

    inputs: bool = False
    output: bool = False
    more: int = 0


class Layer(Component, abstract=True):
    """One layer. Shapes exclude the batch; work and memory are for one row."""

    # Whether it takes two or more inputs rather than exactly one.
    merges: ClassVar[bool] = False
    # Whether its output shares the input's memory.
    shares_memory: ClassVar[bool] = False
    # The rank of the input, without the batch; None accepts any.
    rank: ClassVar[int | None] = None
    # Activations kept for the backward pass, if they do not depend on shapes.
    saved: ClassVar[SavedActivations] = SavedActivations()

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the output. Raises ShapeRefused."""
        return inputs[0]

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        """Return the arrays of weights."""
        return []

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Return the multiply-adds per row in the forward pass; by default, one for each output."""
        return math.prod(output)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        """Return the activations per row that a training step keeps for the backward pass."""
        return self.saved

    def check(self, inputs: Sequence[Shape]) -> Shape:
        """Return `output_shape` after the checks that all layers share. Raises ShapeRefused."""
        name = type(self).__name__
        if self.merges and len(inputs) < 2:
            raise ShapeRefused(f"{name} needs two or more inputs; it has {len(inputs)}.", "Name them: inputs: [a, b].")
        if not self.merges and len(inputs) != 1:
            raise ShapeRefused(f"{name} takes one input; it has {len(inputs)}.", "Join them first with Concatenate.")
        if self.rank is not None and len(inputs[0]) != self.rank:
            raise ShapeRefused(
                f"{name} takes rows of rank {self.rank}; its input is {format_shape(inputs[0])}.",
                _rank_fix(inputs[0], self.rank),
            )
        output = self.output_shape(inputs)
        for weight in self.weights(inputs):
            self._check_initializer(weight)
            self._check_regularizer(weight.name, len(weight.shape), format_shape(weight.shape))
            self._check_constraint(weight)
        self._check_regularizer("activity", len(output) + 1, format_shape(output))
        return output

    def _check_initializer(self, weight: Weight) -> None:
        initializer = getattr(self, f"{weight.name}_initializer", None)
        if isinstance(initializer, Constant) and (shape := shape_of(initializer.value)) not in ((), weight.shape):
            raise ShapeRefused(
                f"Constant has the shape {list(shape)}; the {weight.name} of this {type(self).__name__} has the shape"
                f" {list(weight.shape)}.",
                "Give one number, or lists of the weight's shape: a row for each of its inputs.",
            )
        if not isinstance(initializer, Initializer) or not initializer.matrices_only:
            return
        rank = len(weight.shape)
        if rank < 2 or (initializer.matrices_only == "exactly 2" and rank != 2):
            raise ShapeRefused(
                f"{type(initializer).__name__} fills weights of rank {initializer.matrices_only}; the {weight.name} of"
                f" this {type(self).__name__} is {format_shape(weight.shape)}."
            )

    def _check_regularizer(self, name: str, rank: int, shape: str) -> None:
        regularizer = getattr(self, f"{name}_regularizer", None)
        if isinstance(regularizer, OrthogonalRegularizer) and rank != 2:
            raise ShapeRefused(
                f"OrthogonalRegularizer compares the rows of a matrix; the {name} of this {type(self).__name__} is"
                f" {shape}.",
                "Use L1, L2 or L1L2 there.",
            )

    def _check_constraint(self, weight: Weight) -> None:
        axes = getattr(getattr(self, f"{weight.name}_constraint", None), "axis", [])
        rank = len(weight.shape)
        wrong = [axis for axis in ([axes] if isinstance(axes, int) else axes) if not -rank <= axis < rank]
        if wrong:
            raise ShapeRefused(
                f"The constraint's axis {wrong[0]} is none of the {weight.name} of this {type(self).__name__}, whose"
                f" shape is {list(weight.shape)}.",
                f"Give an axis from 0 to {rank - 1}.",
            )


class UnitsLayer(Layer, abstract=True):
    """A layer with a number of units."""

    units: Positive


class BiasLayer(Layer, abstract=True):
    """A layer with an activation and, as its last weight, an optional bias."""

    activation: Activation = "linear"
    use_bias: Flag = True
    bias_initializer: AnyInitializer = Zeros()
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    bias_constraint: AnyConstraint | None = None

    def bias(self, *shape: int) -> list[Weight]:
        """Return the bias of this shape, if there is one."""
        return [Weight("bias", shape)] if self.use_bias else []


class KernelLayer(BiasLayer, abstract=True):
    """A layer with a kernel, an activation and an optional bias."""

    kernel_initializer: AnyInitializer = GlorotUniform()
    kernel_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None


# Arrays that an activation keeps for the backward pass, its output included (read off TensorFlow 2.21's graphs);
# every other activation keeps one, and linear keeps none.
ACTIVATION_ARRAYS = {
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


def saved_by_activation(size: int, activation: str) -> SavedActivations:
    """Return the activations kept by a layer with a kernel; `size` is its output's numbers per row."""
    if activation == "linear":
        return SavedActivations(inputs=True)
    return SavedActivations(True, True, more=int(size * (ACTIVATION_ARRAYS.get(activation, 1.0) - 1)))


def format_shape(shape: Shape) -> str:
    """Return a shape as Keras prints it: (None, 8)."""
    return f"({', '.join(['None', *map(str, shape)])})"


def _rank_fix(shape: Shape, wanted: int) -> str:
    if wanted == 1:
        return "Put Flatten or a global pooling before it."
    if len(shape) < wanted:
        example = [*shape, *[1] * (wanted - len(shape))]
        return f"Put a Reshape before it, such as Reshape: {example}, or an Embedding for integers."
    return "Put a Reshape or a pooling before it."


def axis_index(axis: int, rank: int) -> int:
    """Return Keras's axis (0 is the batch) as an index into a shape without the batch. Raises ShapeRefused."""
    index = axis - 1 if axis > 0 else axis + rank
    if axis == 0 or not 0 <= index < rank:
        raise ShapeRefused(f"There is no axis {axis} in rows of rank {rank}; axis 0 is the batch.")
    return index
