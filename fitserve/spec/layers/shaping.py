"""Layers that bring numbers into another shape or scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from fitserve.spec.layers.layer import Layer, Shape, ShapeRefused, written
from fitserve.spec.values import Int, Natural, Number, Positive


class Flatten(Layer):
    """All numbers of a row in one axis."""

    alias = True

    shorthand = ""
    data_format: Literal["channels_last"] = "channels_last"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (math.prod(inputs[0]),)


class Reshape(Layer):
    """The same numbers in another shape; one axis may be -1."""

    alias = True

    target_shape: Annotated[list[Int], Field(min_length=1, max_length=6)]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        size, target = math.prod(inputs[0]), list(self.target_shape)
        if target.count(-1) > 1 or any(axis < 1 and axis != -1 for axis in target):
            raise ShapeRefused("The target shape has axes of 1 and more; one of them may be -1.")
        known = math.prod(axis for axis in target if axis != -1)
        if -1 in target and size % known == 0:
            target[target.index(-1)] = size // known
        if math.prod(target) != size:
            raise ShapeRefused(
                f"{written(inputs[0])} has {size} numbers a row; they cannot become {self.target_shape}."
            )
        return tuple(target)


class Permute(Layer):
    """Axes in another order, counted from 1."""

    dims: Annotated[list[Positive], Field(min_length=1, max_length=6)]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if sorted(self.dims) != list(range(1, len(inputs[0]) + 1)):
            raise ShapeRefused(f"dims must name the axes 1 to {len(inputs[0])} of the input once each.")
        return tuple(inputs[0][axis - 1] for axis in self.dims)


class RepeatVector(Layer):
    """A row repeated `n` times, as a sequence."""

    rank = 1
    n: Positive

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.n, *inputs[0])


def _before_and_after(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value, value)


_SIDE = {"type": "integer", "minimum": 0}
Sides = Annotated[
    tuple[Natural, Natural],
    BeforeValidator(_before_and_after),
    WithJsonSchema({"anyOf": [_SIDE, {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2}]}),
]


class ZeroPadding1D(Layer):
    """Zeros before and after a sequence."""

    rank = 2
    padding: Sides = (1, 1)
    data_format: Literal["channels_last"] = "channels_last"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0] + sum(self.padding), inputs[0][1])


class Cropping1D(Layer):
    """Cuts the ends of a sequence off."""

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
