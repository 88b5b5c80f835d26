"""Convolutions over sequences and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from fitserve.spec.activations import Activation
from fitserve.spec.initializers import AnyInitializer, GlorotUniform, Zeros
from fitserve.spec.layers.core import activated
from fitserve.spec.layers.layer import Kept, Layer, Shape, ShapeRefused, Weight, window
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer
from fitserve.spec.values import Flag, Pair, Positive, Single


class _Windowed(Layer):
    """What all of them share: a window that slides over the axes before the channels."""

    def _sliding(self) -> tuple[Shape, Shape, Shape, str]:
        """Kernel, strides, dilation (one number an axis) and padding."""
        kernel, strides, dilation = (
            value if isinstance(value, tuple) else (value,)
            for value in (getattr(self, "kernel_size"), getattr(self, "strides"), getattr(self, "dilation_rate"))  # noqa: B009
        )
        return kernel, strides, dilation, getattr(self, "padding")  # noqa: B009

    def _slide(self, shape: Shape, channels: int) -> Shape:
        kernel, strides, dilation, padding = self._sliding()
        if max(strides) > 1 and max(dilation) > 1:
            raise ShapeRefused("Strides and dilation cannot both be above 1.")
        axes = zip(shape[:-1], kernel, strides, dilation, strict=True)
        return (*(window(size, k, s, d, padding) for size, k, s, d in axes), channels)

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return activated(math.prod(output), getattr(self, "activation"))  # noqa: B009


class _Conv(_Windowed):
    filters: Positive
    groups: Positive
    use_bias: Flag

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        channels = inputs[0][-1]
        if channels % self.groups or self.filters % self.groups:
            raise ShapeRefused(
                f"groups must divide the {channels} input channels and the {self.filters} filters; it is {self.groups}."
            )
        return self._slide(inputs[0], self.filters)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        kernel = (*self._sliding()[0], inputs[0][-1] // self.groups, self.filters)
        return [Weight("kernel", kernel), *([Weight("bias", (self.filters,))] if self.use_bias else [])]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(output[:-1]) * self.weights(inputs)[0].size


class Conv1D(_Conv):
    """A window that slides along a sequence."""

    aliases = ("Convolution1D",)
    rank = 2
    filters: Positive
    kernel_size: Single
    strides: Single = 1
    padding: Literal["valid", "same", "causal"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Single = 1
    groups: Positive = 1
    activation: Activation = "linear"
    use_bias: Flag = True
    kernel_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    kernel_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None


class Conv2D(_Conv):
    """A window that slides over an image."""

    aliases = ("Convolution2D",)
    rank = 3
    filters: Positive
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Pair = (1, 1)
    groups: Positive = 1
    activation: Activation = "linear"
    use_bias: Flag = True
    kernel_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    kernel_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None


class _Separable(_Windowed):
    filters: Positive
    depth_multiplier: Positive
    use_bias: Flag

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self._slide(inputs[0], self.filters)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        kernel, channels = self._sliding()[0], inputs[0][-1]
        ones = (1,) * len(kernel)
        return [
            Weight("depthwise", (*kernel, channels, self.depth_multiplier)),
            Weight("pointwise", (*ones, channels * self.depth_multiplier, self.filters)),
            *([Weight("bias", (self.filters,))] if self.use_bias else []),
        ]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        depthwise, pointwise = self.weights(inputs)[:2]
        return math.prod(output[:-1]) * (depthwise.size + pointwise.size)

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        between = math.prod(output[:-1]) * inputs[0][-1] * self.depth_multiplier
        found = super().kept(inputs, output)
        return replace(found, more=found.more + between)


class SeparableConv1D(_Separable):
    """A window for each channel of a sequence, then a mix of the channels."""

    aliases = ("SeparableConvolution1D",)
    rank = 2
    filters: Positive
    kernel_size: Single
    strides: Single = 1
    padding: Literal["valid", "same", "causal"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Single = 1
    depth_multiplier: Positive = 1
    activation: Activation = "linear"
    use_bias: Flag = True
    depthwise_initializer: AnyInitializer = GlorotUniform()
    pointwise_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    depthwise_regularizer: AnyRegularizer | None = None
    pointwise_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    depthwise_constraint: AnyConstraint | None = None
    pointwise_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None


class SeparableConv2D(_Separable):
    """A window for each channel of an image, then a mix of the channels."""

    aliases = ("SeparableConvolution2D",)
    rank = 3
    filters: Positive
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Literal["valid", "same"] = "valid"
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Pair = (1, 1)
    depth_multiplier: Positive = 1
    activation: Activation = "linear"
    use_bias: Flag = True
    depthwise_initializer: AnyInitializer = GlorotUniform()
    pointwise_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    depthwise_regularizer: AnyRegularizer | None = None
    pointwise_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    depthwise_constraint: AnyConstraint | None = None
    pointwise_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None


class _Depthwise(_Windowed):
    shorthand = "kernel_size"
    depth_multiplier: Positive
    use_bias: Flag

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self._slide(inputs[0], inputs[0][-1] * self.depth_multiplier)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        channels = inputs[0][-1]
        bias = [Weight("bias", (channels * self.depth_multiplier,))] if self.use_bias else []
        return [Weight("kernel", (*self._sliding()[0], channels, self.depth_multiplier)), *bias]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return math.prod(output[:-1]) * self.weights(inputs)[0].size


class DepthwiseConv1D(_Depthwise):
    """A window for each channel of a sequence."""

    rank = 2
    kernel_size: Single
    strides: Single = 1
    padding: Literal["valid", "same", "causal"] = "valid"
    depth_multiplier: Positive = 1
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Single = 1
    activation: Activation = "linear"
    use_bias: Flag = True
    depthwise_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    depthwise_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    depthwise_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None


class DepthwiseConv2D(_Depthwise):
    """A window for each channel of an image."""

    rank = 3
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Literal["valid", "same"] = "valid"
    depth_multiplier: Positive = 1
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: Pair = (1, 1)
    activation: Activation = "linear"
    use_bias: Flag = True
    depthwise_initializer: AnyInitializer = GlorotUniform()
    bias_initializer: AnyInitializer = Zeros()
    depthwise_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    depthwise_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None
