"""Layers that act only while training: dropout and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from fitserve.spec.argument_types import NonNegative, Rate, Seed
from fitserve.spec.layers.layer import Layer, SavedActivations, Shape


class _Dropout(Layer, abstract=True):
    omitted: ClassVar[Mapping[str, Any]] = {"noise_shape": None}
    rate: Rate
    seed: Seed | None = None


class Dropout(_Dropout):
    """Sets a share `rate` of the numbers to 0 and scales up the others."""

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(more=math.prod(output) // 4)  # a mask of one byte for each number


class _SpatialDropout(_Dropout, abstract=True):
    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(more=output[-1] // 4)  # a mask of one byte for each channel


class SpatialDropout1D(_SpatialDropout):
    """Drops whole channels of sequences."""

    rank = 2


class SpatialDropout2D(_SpatialDropout):
    """Drops whole channels of images."""

    rank = 3
    data_format: Literal["channels_last"] = "channels_last"


class _Multiplied(_Dropout, abstract=True):
    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(inputs=True, more=math.prod(output))


class GaussianDropout(_Multiplied):
    """Multiplies by noise of mean 1 and standard deviation sqrt(rate / (1 - rate))."""


class AlphaDropout(_Multiplied):
    """Dropout that keeps mean and variance: for selu."""


class GaussianNoise(Layer):
    """Adds noise of standard deviation `stddev`."""

    stddev: NonNegative
    seed: Seed | None = None
