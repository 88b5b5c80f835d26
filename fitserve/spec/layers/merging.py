"""Layers that join branches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitserve.spec.layers.layer import Kept, Layer, Shape, ShapeRefused, axis_of, written
from fitserve.spec.values import Int


class _Merging(Layer):
    merges = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({len(shape) for shape in inputs}) > 1:
            raise ShapeRefused(f"The inputs have different ranks: {', '.join(map(written, inputs))}.")
        output = []
        for sizes in zip(*inputs, strict=True):
            if len({size for size in sizes if size != 1}) > 1:
                raise ShapeRefused(
                    f"The inputs have different shapes: {', '.join(map(written, inputs))}.",
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

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True)


class Average(_Merging):
    """The mean."""


class Maximum(_Merging):
    """The largest."""

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class Minimum(_Merging):
    """The smallest."""

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class Concatenate(Layer):
    """One input after the other along an axis."""

    merges = True
    axis: Int = -1

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({len(shape) for shape in inputs}) > 1:
            raise ShapeRefused(
                f"The inputs have different ranks: {', '.join(map(written, inputs))}.", "Flatten them first."
            )
        axis = axis_of(self.axis, len(inputs[0]))
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in inputs}) > 1:
            raise ShapeRefused(
                f"The inputs differ beside axis {self.axis}: {', '.join(map(written, inputs))}.", "Flatten them first."
            )
        return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])
