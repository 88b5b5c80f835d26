"""Pooling: the largest or the mean of a window, or of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from fitserve.spec.layers.layer import Kept, Layer, Shape, window
from fitserve.spec.values import Flag, Pair, Single


class _Pooling(Layer):
    shorthand = "pool_size"
    padding: Literal["valid", "same"]

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        pool, strides = getattr(self, "pool_size"), getattr(self, "strides")  # noqa: B009
        pools = pool if isinstance(pool, tuple) else (pool,)
        steps = pools if strides is None else strides if isinstance(strides, tuple) else (strides,)
        axes = zip(inputs[0][:-1], pools, steps, strict=True)
        return (*(window(size, p, s, 1, self.padding) for size, p, s in axes), inputs[0][-1])

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0])


class MaxPooling1D(_Pooling):
    """The largest in a window of a sequence. `strides` left out: `pool_size`."""

    aliases = ("MaxPool1D",)
    rank = 2
    pool_size: Single = 2
    strides: Single | None = None
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class MaxPooling2D(_Pooling):
    """The largest in a window of an image. `strides` left out: `pool_size`."""

    aliases = ("MaxPool2D",)
    rank = 3
    pool_size: Pair = (2, 2)
    strides: Pair | None = None
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class AveragePooling1D(_Pooling):
    """The mean of a window of a sequence. `strides` left out: `pool_size`."""

    aliases = ("AvgPool1D",)
    rank = 2
    pool_size: Single
    strides: Single | None = None
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"


class AveragePooling2D(_Pooling):
    """The mean of a window of an image. `strides` left out: `pool_size`."""

    aliases = ("AvgPool2D",)
    rank = 3
    pool_size: Pair
    strides: Pair | None = None
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"


class _GlobalPooling(Layer):
    shorthand = ""
    keepdims: Flag

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        ones = (1,) * (len(inputs[0]) - 1) if self.keepdims else ()
        return (*ones, inputs[0][-1])

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0])


class GlobalMaxPooling1D(_GlobalPooling):
    """The largest of each channel of a sequence."""

    aliases = ("GlobalMaxPool1D",)
    rank = 2
    data_format: Literal["channels_last"] = "channels_last"
    keepdims: Flag = False

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class GlobalMaxPooling2D(_GlobalPooling):
    """The largest of each channel of an image."""

    aliases = ("GlobalMaxPool2D",)
    rank = 3
    data_format: Literal["channels_last"] = "channels_last"
    keepdims: Flag = False

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True)


class GlobalAveragePooling1D(_GlobalPooling):
    """The mean of each channel of a sequence."""

    aliases = ("GlobalAvgPool1D",)
    rank = 2
    data_format: Literal["channels_last"] = "channels_last"
    keepdims: Flag = False


class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel of an image."""

    aliases = ("GlobalAvgPool2D",)
    rank = 3
    data_format: Literal["channels_last"] = "channels_last"
    keepdims: Flag = False
