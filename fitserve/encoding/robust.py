"""`robust`: a number by the median and the quartiles, softly bounded."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fitserve.encoding.encoding import Row
from fitserve.encoding.number import NumberWriter, ScaledColumn, ScaledNumber

BOUND = 3.0
LARGE = 1e9  # beyond it the bound is reached in float32, and squares could overflow


def softly_bounded(number: Any) -> Any:
    """Return x / sqrt(1 + (x / 3)^2): about x near 0, never beyond -3 and 3. For float64 numbers and arrays alike."""
    if isinstance(number, np.ndarray):
        within = np.clip(number, -LARGE, LARGE)
        shares = within / BOUND
        return within / np.sqrt(1.0 + shares * shares)
    bounded = min(max(float(number), -LARGE), LARGE)
    share = bounded / BOUND
    return bounded / math.sqrt(1.0 + share * share)


class RobustColumn(ScaledColumn):
    """A scaled number, then softly bounded."""

    def scaled(self, number: Any) -> Any:
        return softly_bounded(super().scaled(number))

    def number_writer(self) -> NumberWriter:
        at, center, scale, root = self.offset, self.fitted["center"], self.fitted["scale"], math.sqrt

        def write(number: float, row: Row) -> None:  # as `softly_bounded`
            bounded = (number - center) / scale
            if not -LARGE <= bounded <= LARGE:
                bounded = -LARGE if bounded < 0 else LARGE
            share = bounded / BOUND
            row[at] = bounded / root(1.0 + share * share)

        return write


class RobustNumber(ScaledNumber):
    """Base of the encodings that scale by the median and the quartiles."""

    linear: ClassVar[bool] = False

    def center_and_scale(self, numbers: np.ndarray) -> tuple[float, float]:
        # Computed from halves, whose differences cannot overflow.
        low, center, high = (2 * float(value) for value in np.quantile(numbers / 2, [0.25, 0.5, 0.75]))
        if high - low > 1e-12 * max(1.0, abs(center)):
            return center, high - low
        return center, float(np.max(numbers) / 2 - np.min(numbers) / 2)  # half the range


class Robust(RobustNumber):
    """z / sqrt(1 + (z / 3)^2) of z = (x - median) / interquartile range: outliers stay within -3 and 3.

    Where half of the training rows or more have the same number, half their range is the scale. Source: D. Holzmueller,
    L. Grinsztajn and I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular data" (2024).
    """

    column_class = RobustColumn
    in_onnx = in_code = True

    type: Literal["robust"] = "robust"
    missing: Literal["mean", "median", "zero", "refuse"] = Field(
        default="median", description="What stands for a missing value"
    )
