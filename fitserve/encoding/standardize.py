"""`standardize`: a number by the mean and standard deviation of the training rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fitserve.encoding.number import ScaledNumber


class Standardize(ScaledNumber):
    """(x - mean) / standard deviation (population) of the training rows; a constant column becomes 0."""

    in_onnx = in_code = True
    type: Literal["standardize"] = "standardize"

    def center_and_scale(self, numbers: np.ndarray) -> tuple[float, float]:
        return float(np.mean(numbers)), float(np.std(numbers))
