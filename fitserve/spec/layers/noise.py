"""Layers that act while training alone: dropout and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from fitserve.spec.layers.layer import Kept, Layer, Shape
from fitserve.spec.values import NonNegative, Rate, Seed


class _Noise(Layer):
    omitted: ClassVar[Mapping[str, Any]] = {"noise_shape": None}

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(more=math.prod(output) // 4)  # the mask, of one byte each


class Dropout(_Noise):
    """Sets a share `rate` of the numbers to 0 and scales up the others."""

    rate: Rate
    seed: Seed | None = None


class SpatialDropout1D(_Noise):
    """Drops whole channels of sequences."""

    rank = 2
    rate: Rate
    seed: Seed | None = None

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(more=output[-1] // 4)


class SpatialDropout2D(_Noise):
    """Drops whole channels of images."""

    rank = 3
    rate: Rate
    data_format: Literal["channels_last"] = "channels_last"
    seed: Seed | None = None

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(more=output[-1] // 4)


class GaussianDropout(_Noise):
    """Multiplies by noise of mean 1 and standard deviation sqrt(rate / (1 - rate))."""

    rate: Rate
    seed: Seed | None = None

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, more=math.prod(output))


class AlphaDropout(_Noise):
    """Dropout that keeps mean and variance: for selu."""

    rate: Rate
    seed: Seed | None = None

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, more=math.prod(output))


class GaussianNoise(_Noise):
    """Adds noise of standard deviation `stddev`."""

    stddev: NonNegative
    seed: Seed | None = None

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept()
