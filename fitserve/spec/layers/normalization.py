"""Normalising layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fitserve.spec.initializers import AnyInitializer, Ones, Zeros
from fitserve.spec.layers.layer import Kept, Layer, Shape, ShapeRefused, Weight, axis_of
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer
from fitserve.spec.values import Above0, Flag, Int, Positive, Share


class _Normalization(Layer):
    arrays: ClassVar[int] = 1  # that the way back reads beside the input

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, more=self.arrays * math.prod(output))

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return 4 * math.prod(output)


class BatchNormalization(_Normalization):
    """Mean 0 and variance 1 over the batch; over all of training where it predicts."""

    omitted: ClassVar[Mapping[str, Any]] = {
        "synchronized": False,
        "renorm": False,
        "renorm_clipping": None,
        "renorm_momentum": ...,
    }
    axis: Int = -1
    momentum: Share = 0.99
    epsilon: Above0 = 0.001
    center: Flag = True
    scale: Flag = True
    beta_initializer: AnyInitializer = Zeros()
    gamma_initializer: AnyInitializer = Ones()
    moving_mean_initializer: AnyInitializer = Zeros()
    moving_variance_initializer: AnyInitializer = Ones()
    beta_regularizer: AnyRegularizer | None = None
    gamma_regularizer: AnyRegularizer | None = None
    beta_constraint: AnyConstraint | None = None
    gamma_constraint: AnyConstraint | None = None

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        size = (inputs[0][axis_of(self.axis, len(inputs[0]))],)
        return [
            *([Weight("gamma", size)] if self.scale else []),
            *([Weight("beta", size)] if self.center else []),
            Weight("moving_mean", size, trainable=False),
            Weight("moving_variance", size, trainable=False),
        ]


class LayerNormalization(_Normalization):
    """Mean 0 and variance 1 within each row."""

    arrays = 3

    omitted: ClassVar[Mapping[str, Any]] = {"rms_scaling": False}
    axis: Int | list[Int] = -1
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
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        size = tuple(inputs[0][axis_of(axis, len(inputs[0]))] for axis in axes)
        return [
            *([Weight("gamma", size)] if self.scale else []),
            *([Weight("beta", size)] if self.center else []),
        ]


class GroupNormalization(_Normalization):
    """Mean 0 and variance 1 within groups of channels of each row."""

    groups: Positive = 32
    axis: Int = -1
    epsilon: Above0 = 0.001
    center: Flag = True
    scale: Flag = True
    beta_initializer: AnyInitializer = Zeros()
    gamma_initializer: AnyInitializer = Ones()
    beta_regularizer: AnyRegularizer | None = None
    gamma_regularizer: AnyRegularizer | None = None
    beta_constraint: AnyConstraint | None = None
    gamma_constraint: AnyConstraint | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        channels = inputs[0][axis_of(self.axis, len(inputs[0]))]
        if channels % self.groups:
            raise ShapeRefused(f"{channels} channels cannot be divided into {self.groups} equal groups.")
        return inputs[0]

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        size = (inputs[0][axis_of(self.axis, len(inputs[0]))],)
        return [
            *([Weight("gamma", size)] if self.scale else []),
            *([Weight("beta", size)] if self.center else []),
        ]


class RMSNormalization(_Normalization):
    """Root mean square 1 within each row, times a learned scale."""

    arrays = 2

    axis: Int = -1
    epsilon: Above0 = 1e-6

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        return [Weight("scale", (inputs[0][axis_of(self.axis, len(inputs[0]))],))]


class UnitNormalization(Layer):
    """Each row divided by its Euclidean norm."""

    axis: Int | list[Int] = -1

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, more=math.prod(output))
