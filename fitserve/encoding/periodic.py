"""`periodic`: a number as sines and cosines of several frequencies."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.coercion import Column
from fitserve.encoding.encoding import ValueWarning
from fitserve.encoding.number import NumericColumn, ScaledColumn
from fitserve.encoding.robust import RobustNumber, softly_bounded


class PeriodicColumn(ScaledColumn):
    """Sines of all frequencies (in `fitted`), then cosines; zeros where missing."""

    encoding: Periodic

    number_writer = NumericColumn.number_writer  # writes several numbers, unlike a scaled column

    def scaled(self, number: Any) -> Any:
        return softly_bounded(super().scaled(number))

    def write_number(self, number: float, out: np.ndarray) -> ValueWarning | None:
        self.write_numbers(np.array([number]), np.zeros(1, np.bool_), out[None])
        return self.range_warning(number)

    def write_missing(self, out: np.ndarray) -> None:
        """Leave zeros."""

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        known = ~missing
        turns = 2 * np.pi * np.asarray(self.fitted["frequencies"], np.float64)
        angles = self.scaled(numbers[known])[:, None] * turns
        out[known, : 2 * len(turns)] = np.hstack([np.sin(angles), np.cos(angles)])


class Periodic(RobustNumber):
    """Sines and cosines of a number scaled as by `robust`, of frequencies up to some times `sigma`.

    The frequencies are the quantiles of a half-normal distribution, and are not trained; the layer `Periodic` trains
    its own. A missing value is all zeros.
    """

    column_class = PeriodicColumn
    in_onnx = in_code = True

    type: Literal["periodic"] = "periodic"
    missing: Literal["zero", "refuse"] = "zero"
    frequencies: int = Field(default=8, ge=1, le=256, description="Each gives a sine and a cosine")
    sigma: float = Field(default=0.3, gt=0, le=1e3, description="Their spread, in turns for each interquartile range")

    def width(self, facts: ColumnFacts) -> int:
        return 2 * self.frequencies + bool(self.indicator)

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        ranks = [0.5 + (index + 0.5) / (2 * self.frequencies) for index in range(self.frequencies)]
        fitted = super().fit(values, facts)
        turns = [self.sigma * NormalDist().inv_cdf(rank) for rank in ranks]
        return {**fitted, "fill": fitted["center"], "frequencies": turns}
