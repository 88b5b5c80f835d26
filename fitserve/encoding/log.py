"""`log`: a number's signed logarithm, standardised."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fitserve.encoding.number import ScaledNumber


class Log(ScaledNumber):
    """sign(x) * log(1 + |x|), then standardised."""

    kinds = ("numeric",)
    linear = False
    in_onnx = in_code = True
    type: Literal["log"] = "log"

    def transform(self, number: Any) -> Any:
        return np.sign(number) * np.log1p(np.abs(number))

    def center_and_scale(self, numbers: np.ndarray) -> tuple[float, float]:
        return float(np.mean(numbers)), float(np.std(numbers))
