"""`quantile`: a number by its rank among the training rows, as a standard normal one."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.binned import BinnedColumn, BinnedNumber, quantile_edges
from fitserve.encoding.coercion import Column, numbers_of
from fitserve.encoding.encoding import Indicator, Row
from fitserve.encoding.number import NumberWriter


class QuantileColumn(BinnedColumn):
    """`fitted` has `scores` too, the normal quantile of each edge's rank: between edges they are interpolated."""

    def number_writer(self) -> NumberWriter:
        place, edges, scores = self.offset, self.halves.tolist(), self.fitted["scores"]
        inner, widths = edges[1:-1], [high - low for low, high in pairwise(edges)]
        rises = [high - low for low, high in pairwise(scores)]
        if not widths:
            return lambda number, row: None

        def write(number: float, row: Row) -> None:
            half = number / 2
            at = bisect_right(inner, half)
            share = (half - edges[at]) / widths[at]
            row[place] = scores[at] + rises[at] * (0.0 if share <= 0.0 else min(share, 1.0))

        return write

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        if not self.bins:
            return
        at, shares = self.located(np.where(missing, self.fitted["fill"], numbers))
        scores = np.asarray(self.fitted["scores"], np.float64)
        out[:, 0] = np.where(missing, 0.0, scores[at] + np.diff(scores)[at] * shares)


class Quantile(BinnedNumber):
    """The standard normal number of the same rank: outliers and skewed columns become bell-shaped.

    Ranks are interpolated between quantiles of the training rows; numbers beyond theirs get the last one's. A missing
    value is 0, the median's.
    """

    column_class = QuantileColumn
    in_onnx = in_code = True

    type: Literal["quantile"] = "quantile"
    quantiles: int = Field(default=256, ge=2, le=10_000, description="Of the training rows, evenly spaced by rank")
    missing: Literal["zero", "refuse"] = Field(default="zero", description="zero: as the median")
    indicator: Indicator = None

    def edges(self, numbers: np.ndarray) -> np.ndarray:
        return quantile_edges(numbers, self.quantiles - 1)

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        fitted = super().fit(values, facts)
        numbers = numbers_of(values)
        present = np.sort(numbers[~np.isnan(numbers)])
        before = np.searchsorted(present, fitted["edges"], side="left")
        up_to = np.searchsorted(present, fitted["edges"], side="right")
        ranks = (before + up_to) / 2 / max(1, len(present))
        return {**fitted, "scores": [NormalDist().inv_cdf(float(rank)) for rank in ranks]}
