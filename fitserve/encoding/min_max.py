"""`min_max`: a number by the range of the training rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fitserve.encoding.number import ScaledNumber


class MinMax(ScaledNumber):
    """(x - min) / (max - min) of the training rows; a constant column becomes 0."""

    in_onnx = in_code = True
    type: Literal["min_max"] = "min_max"

    def center_and_scale(self, numbers: np.ndarray) -> tuple[float, float]:
        return float(np.min(numbers)), float(np.max(numbers) - np.min(numbers))
