"""Layers that change shapes: reshape, pad, crop, repeat, rescale, and join branches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from fitserve.spec.argument_types import Int, Number, Positive, Sides
from fitserve.spec.layers.layer import Layer, SavedActivations, Shape, ShapeRefused, axis_index, format_shape


class Flatten(Layer):
    """All numbers of a row along one axis."""

    shares_memory = True
    shorthand = ""
    data_format: Literal["channels_last"] = "channels_last"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (math.prod(inputs[0]),)


class Reshape(Layer):
    """The same numbers in another shape; one axis may be -1."""

    shares_memory = True
    target_shape: Annotated[list[Int], Field(min_length=1, max_length=6)]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        size, target = math.prod(inputs[0]), list(self.target_shape)
        if target.count(-1) > 1 or any(axis < 1 and axis != -1 for axis in target):
            raise ShapeRefused("The axes of the target shape must be at least 1; one of them may be -1.")
        known = math.prod(axis for axis in target if axis != -1)
        if -1 in target and size % known == 0:
            target[target.index(-1)] = size // known
        if math.prod(target) != size:
            raise ShapeRefused(
                f"{format_shape(inputs[0])} has {size} numbers a row; they cannot become {self.target_shape}."
            )
        return tuple(target)


class Permute(Layer):
    """Axes in another order, counted from 1."""

    dims: Annotated[list[Positive], Field(min_length=1, max_length=6)]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if sorted(self.dims) != list(range(1, len(inputs[0]) + 1)):
            raise ShapeRefused(f"dims must name each of the axes 1 to {len(inputs[0])} of the input once.")
        return tuple(inputs[0][axis - 1] for axis in self.dims)


class RepeatVector(Layer):
    """A row repeated `n` times, as a sequence."""

    rank = 1
    n: Positive

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.n, *inputs[0])


class ZeroPadding1D(Layer):
    """Zeros before and after a sequence."""

    rank = 2
    padding: Sides = (1, 1)
    data_format: Literal["channels_last"] = "channels_last"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0] + sum(self.padding), inputs[0][1])


class Cropping1D(Layer):
    """Cuts off the ends of a sequence."""

    rank = 2
    cropping: Sides = (1, 1)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        left = inputs[0][0] - sum(self.cropping)
        if left < 1:
            raise ShapeRefused(f"Nothing is left of a sequence of {inputs[0][0]} after cropping {self.cropping}.")
        return (left, inputs[0][1])


class UpSampling1D(Layer):
    """Each step of a sequence repeated."""

    rank = 2
    size: Positive = 2

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0] * self.size, inputs[0][1])


class Rescaling(Layer):
    """`scale * x + offset`."""

    scale: Number | list[Number]
    offset: Number | list[Number] = 0.0

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if isinstance(value, list) and len(value) not in (1, inputs[0][-1]):
                raise ShapeRefused(f"{name} has {len(value)} numbers; the last axis has {inputs[0][-1]}.")
        return inputs[0]


def _formatted(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(format_shape, shapes))


class _Merging(Layer, abstract=True):
    merges = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({len(shape) for shape in inputs}) > 1:
            raise ShapeRefused(f"The inputs have different ranks: {_formatted(inputs)}.")
        output = []
        for sizes in zip(*inputs, strict=True):
            if len({size for size in sizes if size != 1}) > 1:
                raise ShapeRefused(
                    f"The inputs have different shapes: {_formatted(inputs)}.",
                    "Bring the branches to one width, or join them with Concatenate.",
                )
            output.append(max(sizes))
        return tuple(output)

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return len(inputs) * math.prod(output)


class Add(_Merging):
    """The sum."""


class Subtract(_Merging):
    """The first input less the second."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(inputs) != 2:
            raise ShapeRefused(f"Subtract takes two inputs; it has {len(inputs)}.")
        return super().output_shape(inputs)


class Multiply(_Merging):
    """The product."""

    saved = SavedActivations(inputs=True)


class Average(_Merging):
    """The mean."""


class Maximum(_Merging):
    """The largest."""

    saved = SavedActivations(inputs=True, output=True)


class Minimum(_Merging):
    """The smallest."""

    saved = SavedActivations(inputs=True, output=True)


class Concatenate(Layer):
    """One input after the other along an axis."""

    merges = True
    axis: Int = -1

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({len(shape) for shape in inputs}) > 1:
            raise ShapeRefused(f"The inputs have different ranks: {_formatted(inputs)}.", "Flatten them first.")
        axis = axis_index(self.axis, len(inputs[0]))
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in inputs}) > 1:
            detail = f"The inputs differ in more than axis {self.axis}: {_formatted(inputs)}."
            raise ShapeRefused(detail, "Flatten them first.")
        return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])
