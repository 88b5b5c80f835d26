"""Layers that normalise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fitserve.spec.argument_types import Above0, Flag, Int, Positive, Share
from fitserve.spec.initializers import AnyInitializer, Ones, Zeros
from fitserve.spec.layers.layer import Layer, SavedActivations, Shape, ShapeRefused, Weight, axis_index
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer


class _Normalization(Layer, abstract=True):
    saved_arrays: ClassVar[int] = 1  # arrays that the backward pass reads besides the input
    axis: Int | list[Int] = -1

    def channels(self, inputs: Sequence[Shape]) -> Shape:
        """Return the sizes along the axis or axes."""
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        return tuple(inputs[0][axis_index(axis, len(inputs[0]))] for axis in axes)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(inputs=True, more=self.saved_arrays * math.prod(output))

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return 4 * math.prod(output)


class _Centered(_Normalization, abstract=True):
    """A normalisation with a learned scale (`gamma`) and shift (`beta`)."""

    epsilon: Above0 = 0.001
    center: Flag = True
    scale: Flag = True
    beta_initializer: AnyInitializer = Zeros()
    gamma_initializer: AnyInitializer = Ones()
    beta_regularizer: AnyRegularizer | None = None
    gamma_regularizer: AnyRegularizer | None = None
    beta_constraint: AnyConstraint | None = None
    gamma_constraint: AnyConstraint | None = None

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        shape = self.channels(inputs)
        gamma = [Weight("gamma", shape)] if self.scale else []
        return gamma + ([Weight("beta", shape)] if self.center else [])


class BatchNormalization(_Centered):
    """Mean 0 and variance 1 over the batch; in predictions over all of training."""

    omitted: ClassVar[Mapping[str, Any]] = {
        "synchronized": False,
        "renorm": False,
        "renorm_clipping": None,
        "renorm_momentum": ...,
    }
    axis: Int = -1
    momentum: Share = 0.99
    moving_mean_initializer: AnyInitializer = Zeros()
    moving_variance_initializer: AnyInitializer = Ones()

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        moving = [Weight(f"moving_{name}", self.channels(inputs), trainable=False) for name in ("mean", "variance")]
        return super().weights(inputs) + moving


class LayerNormalization(_Centered):
    """Mean 0 and variance 1 within each row."""

    saved_arrays = 3
    omitted: ClassVar[Mapping[str, Any]] = {"rms_scaling": False}


class GroupNormalization(_Centered):
    """Mean 0 and variance 1 within groups of channels of each row."""

    shorthand = "groups"
    groups: Positive = 32
    axis: Int = -1

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        (channels,) = self.channels(inputs)
        if channels % self.groups:
            raise ShapeRefused(f"{channels} channels cannot be divided into {self.groups} equal groups.")
        return inputs[0]


class RMSNormalization(_Normalization):
    """Root mean square 1 within each row, times a learned scale."""

    saved_arrays = 2
    axis: Int = -1
    epsilon: Above0 = 1e-6

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        return [Weight("scale", self.channels(inputs))]


class UnitNormalization(Layer):
    """Each row divided by its Euclidean norm."""

    axis: Int | list[Int] = -1

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        for axis in self.axis if isinstance(self.axis, list) else [self.axis]:
            axis_index(axis, len(inputs[0]))
        return inputs[0]

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(inputs=True, more=math.prod(output))
