"""What every layer of a spec knows of itself: shapes, weights, work and memory, without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fitserve.spec.component import Component
from fitserve.spec.initializers import Constant, Initializer
from fitserve.spec.values import shape_of

Shape = tuple[int, ...]  # without the batch


class ShapeRefused(ValueError):
    """These inputs do not fit this layer."""

    def __init__(self, detail: str, fix: str | None = None) -> None:
        super().__init__(detail)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Weight:
    """One array of weights, named as the layer's argument is (`kernel`, `bias`)."""

    name: str
    shape: Shape
    trainable: bool = True

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a layer's way back reads: its inputs, its output, and `more` numbers of one row beside them."""

    inputs: bool = False
    output: bool = False
    more: int = 0


class Layer(Component):
    """One layer. Shapes are without the batch; work and memory are for one row."""

    # How many inputs it takes: exactly one, or two and more.
    merges: ClassVar[bool] = False
    # Whether the output is the input's own memory.
    alias: ClassVar[bool] = False
    # The rank of the input, without the batch; None is any.
    rank: ClassVar[int | None] = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """The shape of the output. Raises ShapeRefused."""
        return inputs[0]

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        """The arrays that the layer holds."""
        return []

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Multiplications with additions, of one row going forward; one for each output where there are none."""
        return math.prod(output)

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        """What a training step holds of one row for the way back."""
        return Kept()

    def check(self, inputs: Sequence[Shape]) -> Shape:
        """`output_shape`, after the checks that all layers share. Raises ShapeRefused."""
        name = type(self).__name__
        if self.merges and len(inputs) < 2:
            raise ShapeRefused(f"{name} needs two inputs or more; it has {len(inputs)}.", "Name them: inputs: [a, b].")
        if not self.merges and len(inputs) != 1:
            raise ShapeRefused(f"{name} takes one input; it has {len(inputs)}.", "Join them first with Concatenate.")
        if self.rank is not None and len(inputs[0]) != self.rank:
            raise ShapeRefused(
                f"{name} takes rows of rank {self.rank}; its input is {written(inputs[0])}.",
                _rank_fix(inputs[0], self.rank),
            )
        output = self.output_shape(inputs)
        for weight in self.weights(inputs):
            self._check_initializer(weight)
        return output

    def _check_initializer(self, weight: Weight) -> None:
        initializer = getattr(self, f"{weight.name}_initializer", None)
        if isinstance(initializer, Constant) and shape_of(initializer.value) not in ((), weight.shape):
            raise ShapeRefused(
                f"Constant gives the {weight.name} of this {type(self).__name__} numbers of the shape"
                f" {list(shape_of(initializer.value))}; it has the shape {list(weight.shape)}.",
                "Give one number, or lists of the weight's shape: a row for each of its inputs.",
            )
        if not isinstance(initializer, Initializer) or not initializer.matrices_only:
            return
        rank = len(weight.shape)
        if rank < 2 or (initializer.matrices_only == "exactly 2" and rank != 2):
            raise ShapeRefused(
                f"{type(initializer).__name__} fills weights of rank {initializer.matrices_only}; the {weight.name} of"
                f" this {type(self).__name__} is {written(weight.shape)}."
            )


def written(shape: Shape) -> str:
    """A shape as Keras prints it."""
    return f"({', '.join(['None', *map(str, shape)])})"


def _rank_fix(shape: Shape, wanted: int) -> str:
    if wanted == 1:
        return "Put Flatten or a global pooling before it."
    if len(shape) < wanted:
        example = [*shape, *[1] * (wanted - len(shape))]
        return f"Put a Reshape before it, such as Reshape: {example}, or an Embedding for integers."
    return "Put a Reshape or a pooling before it."


def window(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """The length of an axis after a sliding window (as `keras.ops` counts it). Raises ShapeRefused."""
    if padding in ("same", "causal"):
        return -(-size // stride)
    reach = dilation * (kernel - 1) + 1
    if reach > size:
        raise ShapeRefused(
            f"A window of {reach} does not fit into an axis of {size}.", 'Make it smaller, or say padding: "same".'
        )
    return (size - reach) // stride + 1


def axis_of(axis: int, rank: int) -> int:
    """Keras's axis (0 is the batch) as an index into a shape without the batch. Raises ShapeRefused."""
    index = axis - 1 if axis > 0 else axis + rank
    if axis == 0 or not 0 <= index < rank:
        raise ShapeRefused(f"There is no axis {axis} in rows of rank {rank}; the batch is axis 0 and not to be chosen.")
    return index
