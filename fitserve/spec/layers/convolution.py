"""Convolution and pooling layers: windows that slide over sequences and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from fitserve.spec.argument_types import Flag, Pair, Positive, Single
from fitserve.spec.initializers import AnyInitializer, GlorotUniform
from fitserve.spec.layers.layer import (
    BiasLayer,
    KernelLayer,
    Layer,
    SavedActivations,
    Shape,
    ShapeRefused,
    Weight,
    saved_by_activation,
)
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer


def window_length(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """Return the length of an axis after a sliding window (as `keras.ops` counts it). Raises ShapeRefused."""
    if padding in ("same", "causal"):
        return -(-size // stride)
    reach = dilation * (kernel - 1) + 1
    if reach > size:
        fix = 'Make it smaller, or use padding: "same".'
        raise ShapeRefused(f"A window of {reach} does not fit into an axis of {size}.", fix)
    return (size - reach) // stride + 1


def _tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


class _Filters(Layer, abstract=True):
    filters: Positive


class _Window(Layer, abstract=True):
    """A window with strides and dilation over the axes before the channels."""

    kernel_size: Single | Pair
    strides: Single | Pair
    padding: Literal["valid", "same", "causal"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Single | Pair

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of the window, one number for each axis."""
        return _tuple(self.kernel_size)

    def slide(self, shape: Shape, channels: int) -> Shape:
        """Return the output shape for a number of channels. Raises ShapeRefused."""
        strides, dilation = _tuple(self.strides), _tuple(self.dilation_rate)
        if max(strides) > 1 and max(dilation) > 1:
            raise ShapeRefused("Strides and dilation cannot both be above 1.")
        axes = zip(shape[:-1], self.kernel, strides, dilation, strict=True)
        return (*(window_length(size, k, s, d, self.padding) for size, k, s, d in axes), channels)


class _Window1D(_Window, abstract=True):
    rank = 2
    kernel_size: Single
    strides: Single = 1
    dilation_rate: Single = 1


class _Window2D(_Window, abstract=True):
    rank = 3
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Literal["valid", "same"] = "valid"
    dilation_rate: Pair = (1, 1)


class _Conv(KernelLayer, _Window, _Filters, abstract=True):
    groups: Positive = 1

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        channels = inputs[0][-1]
        if channels % self.groups or self.filters % self.groups:
            raise ShapeRefused(
                f"groups must divide the {channels} input channels and the {self.filters} filters; it is {self.groups}."
            )
        return self.slide(inputs[0], self.filters)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        kernel = Weight("kernel", (*self.kernel, inputs[0][-1] // self.groups, self.filters))
        return [kernel, *self.bias(self.filters)]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(output[:-1]) * self.weights(inputs)[0].size

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return saved_by_activation(math.prod(output), self.activation)


class Conv1D(_Window1D, _Conv):
    """A window that slides along a sequence."""

    aliases = ("Convolution1D",)


class Conv2D(_Window2D, _Conv):
    """A window that slides over an image."""

    aliases = ("Convolution2D",)


class _Depthwise(BiasLayer, _Window, abstract=True):
    """A window for each channel."""

    depth_multiplier: Positive = 1
    depthwise_initializer: AnyInitializer = GlorotUniform()
    depthwise_regularizer: AnyRegularizer | None = None
    depthwise_constraint: AnyConstraint | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.slide(inputs[0], inputs[0][-1] * self.depth_multiplier)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        channels = inputs[0][-1]
        kernel = Weight("kernel", (*self.kernel, channels, self.depth_multiplier))
        return [kernel, *self.bias(channels * self.depth_multiplier)]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(output[:-1]) * self.weights(inputs)[0].size

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return saved_by_activation(math.prod(output), self.activation)


class DepthwiseConv1D(_Window1D, _Depthwise):
    """A window for each channel of a sequence."""


class DepthwiseConv2D(_Window2D, _Depthwise):
    """A window for each channel of an image."""


class _Separable(_Depthwise, _Filters, abstract=True):
    """A window for each channel, then a mix of the channels."""

    pointwise_initializer: AnyInitializer = GlorotUniform()
    pointwise_regularizer: AnyRegularizer | None = None
    pointwise_constraint: AnyConstraint | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.slide(inputs[0], self.filters)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        channels, ones = inputs[0][-1], (1,) * len(self.kernel)
        return [
            Weight("depthwise", (*self.kernel, channels, self.depth_multiplier)),
            Weight("pointwise", (*ones, channels * self.depth_multiplier, self.filters)),
            *self.bias(self.filters),
        ]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        depthwise, pointwise = self.weights(inputs)[:2]
        return math.prod(output[:-1]) * (depthwise.size + pointwise.size)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        between = math.prod(output[:-1]) * inputs[0][-1] * self.depth_multiplier
        saved = super().saved_activations(inputs, output)
        return replace(saved, more=saved.more + between)


class SeparableConv1D(_Window1D, _Separable):
    """A window for each channel of a sequence, then a mix of the channels."""

    aliases = ("SeparableConvolution1D",)


class SeparableConv2D(_Window2D, _Separable):
    """A window for each channel of an image, then a mix of the channels."""

    aliases = ("SeparableConvolution2D",)


class _Pooling(Layer, abstract=True):
    pool_size: Single | Pair
    strides: Single | Pair | None = None  # None means `pool_size`
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        sizes = _tuple(self.pool_size)
        strides = sizes if self.strides is None else _tuple(self.strides)
        axes = zip(inputs[0][:-1], sizes, strides, strict=True)
        return (*(window_length(size, p, s, 1, self.padding) for size, p, s in axes), inputs[0][-1])

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0])


class MaxPooling1D(_Pooling):
    """The largest in a window of a sequence. `strides` left out: `pool_size`."""

    aliases = ("MaxPool1D",)
    rank = 2
    saved = SavedActivations(inputs=True, output=True)
    pool_size: Single = 2
    strides: Single | None = None


class MaxPooling2D(_Pooling):
    """The largest in a window of an image. `strides` left out: `pool_size`."""

    aliases = ("MaxPool2D",)
    rank = 3
    saved = SavedActivations(inputs=True, output=True)
    pool_size: Pair = (2, 2)
    strides: Pair | None = None


class AveragePooling1D(_Pooling):
    """The mean of a window of a sequence. `strides` left out: `pool_size`."""

    aliases = ("AvgPool1D",)
    rank = 2
    pool_size: Single
    strides: Single | None = None


class AveragePooling2D(_Pooling):
    """The mean of a window of an image. `strides` left out: `pool_size`."""

    aliases = ("AvgPool2D",)
    rank = 3
    pool_size: Pair
    strides: Pair | None = None


class _GlobalPooling(Layer, abstract=True):
    shorthand = ""
    data_format: Literal["channels_last"] = "channels_last"
    keepdims: Flag = False

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        ones = (1,) * (len(inputs[0]) - 1) if self.keepdims else ()
        return (*ones, inputs[0][-1])

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(inputs[0])


class GlobalMaxPooling1D(_GlobalPooling):
    """The largest of each channel of a sequence."""

    aliases = ("GlobalMaxPool1D",)
    rank = 2
    saved = SavedActivations(inputs=True, output=True)


class GlobalMaxPooling2D(_GlobalPooling):
    """The largest of each channel of an image."""

    aliases = ("GlobalMaxPool2D",)
    rank = 3
    saved = SavedActivations(inputs=True, output=True)


class GlobalAveragePooling1D(_GlobalPooling):
    """The mean of each channel of a sequence."""

    aliases = ("GlobalAvgPool1D",)
    rank = 2


class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel of an image."""

    aliases = ("GlobalAvgPool2D",)
    rank = 3
