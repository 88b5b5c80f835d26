"""Keras's initializers: the weights before the first step. Without a seed they follow the run's seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from fitserve.spec.argument_types import Above0, Array, NonNegative, Number, Seed
from fitserve.spec.component import Component, Family

_AXES = {"input_axes": None, "output_axes": None}


class Initializer(Component, abstract=True):
    """The initial values of one weight."""

    # The ranks of weights that this initializer can fill; "" means any.
    matrices_only: ClassVar[Literal["", "at least 2", "exactly 2"]] = ""


class Zeros(Initializer):
    """All 0."""

    aliases = ("zero",)


class Ones(Initializer):
    """All 1."""

    aliases = ("one",)


class Constant(Initializer):
    """All `value`, or lists of the weight's own shape: training starts from these numbers."""

    value: Array = 0.0


class RandomNormal(Initializer):
    """Normally distributed."""

    aliases = ("normal",)
    mean: Number = 0.0
    stddev: NonNegative = 0.05
    seed: Seed | None = None


class RandomUniform(Initializer):
    """Uniformly distributed."""

    aliases = ("uniform",)
    minval: Number = -0.05
    maxval: Number = 0.05
    seed: Seed | None = None


class TruncatedNormal(Initializer):
    """Normally distributed; values beyond two standard deviations are drawn again."""

    mean: Number = 0.0
    stddev: NonNegative = 0.05
    seed: Seed | None = None


class VarianceScaling(Initializer):
    """Variance `scale / n`, where n is the number of inputs, of outputs, or their mean."""

    omitted: ClassVar[Mapping[str, Any]] = _AXES
    scale: Above0 = 1.0
    mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in"
    distribution: Literal["truncated_normal", "untruncated_normal", "normal", "uniform"] = "truncated_normal"
    seed: Seed | None = None


class _Scaled(Initializer, abstract=True):
    omitted: ClassVar[Mapping[str, Any]] = _AXES
    seed: Seed | None = None


class GlorotUniform(_Scaled):
    """Uniform within ±sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010)."""

    aliases = ("xavier_uniform",)


class GlorotNormal(_Scaled):
    """Truncated normal of variance 2 / (inputs + outputs) (Glorot and Bengio 2010)."""

    aliases = ("xavier_normal",)


class HeUniform(_Scaled):
    """Uniform within ±sqrt(6 / inputs) (He et al. 2015): for relu."""


class HeNormal(_Scaled):
    """Truncated normal of variance 2 / inputs (He et al. 2015): for relu."""


class LecunUniform(_Scaled):
    """Uniform within ±sqrt(3 / inputs) (LeCun et al. 1998)."""


class LecunNormal(_Scaled):
    """Truncated normal of variance 1 / inputs (LeCun et al. 1998): for selu."""


class Orthogonal(Initializer):
    """An orthogonal matrix."""

    aliases = ("OrthogonalInitializer",)
    matrices_only = "at least 2"
    gain: Number = 1.0
    seed: Seed | None = None


class Identity(Initializer):
    """The identity matrix."""

    aliases = ("IdentityInitializer",)
    matrices_only = "exactly 2"
    gain: Number = 1.0


INITIALIZERS: Family[Initializer] = Family("initializer", "keras.initializers", Initializer)
AnyInitializer = Annotated[Initializer, INITIALIZERS]
