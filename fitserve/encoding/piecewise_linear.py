"""`piecewise_linear`: a number as how far it has got through each bin between quantiles of the training rows."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.binned import BinnedColumn, BinnedNumber, quantile_edges
from fitserve.encoding.encoding import Indicator, Row
from fitserve.encoding.number import NumberWriter

MAX_BINS = 32
ROWS_A_BIN = 80  # fewer rows say little about the target within a bin


def usual_bins(facts: ColumnFacts, most: int = MAX_BINS) -> int:
    """Return how many bins a column has where the spec gives no number: at most one fewer than it has values."""
    return max(1, min(most, MAX_BINS, facts.rows // ROWS_A_BIN, facts.distinct - 1))


class PiecewiseLinearColumn(BinnedColumn):
    """Bins below the number's own are 1, bins above it 0. If there are fewer bins than places, the rest stay 0."""

    @cached_property
    def _below(self) -> np.ndarray:
        """Row k is the encoding of a number in bin k, except for that bin itself: (bins, bins)."""
        return np.tri(self.bins, self.bins, -1, dtype=np.float32)

    def number_writer(self) -> NumberWriter:
        start, bins = self.offset, self.bins
        below = [memoryview(row[:index]) for index, row in enumerate(self._below)]
        parts = [slice(start, start + index) for index in range(bins)]
        edges = self.halves.tolist()
        inner, widths = edges[1:-1], [high - low for low, high in pairwise(edges)]
        if not bins:
            return lambda number, row: None

        def write(number: float, row: Row) -> None:
            half = number / 2
            at = bisect_right(inner, half)
            share = (half - edges[at]) / widths[at]
            if at:
                row[parts[at]] = below[at]
            row[start + at] = 0.0 if share <= 0.0 else share if share < 1.0 else 1.0  # noqa: FURB136  (`min` takes longer)

        return write

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        if not self.bins:
            return
        rows = np.flatnonzero(~missing)
        at, shares = self.located(numbers[rows])
        out[rows, : self.bins] = self._below[at]
        out[rows, at] = shares


class PiecewiseLinear(BinnedNumber):
    """A place for each bin between quantiles: 1 where the number is above it, 0 below, within it the share passed.

    A missing value is all zeros. Source: Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical
    features in tabular deep learning" (2022).
    """

    column_class = PiecewiseLinearColumn
    in_onnx = in_code = True

    type: Literal["piecewise_linear"] = "piecewise_linear"
    bins: int | None = Field(
        default=None, ge=1, le=1000, description="Left out: one for each 80 rows, at most 32 and one fewer than values"
    )
    missing: Literal["zero", "refuse"] = "zero"
    indicator: Indicator = None

    def defaults(self, facts: ColumnFacts) -> dict[str, Any]:
        return super().defaults(facts) | ({"bins": usual_bins(facts)} if self.bins is None else {})

    def width(self, facts: ColumnFacts) -> int:
        return (self.bins or 1) + bool(self.indicator)

    def edges(self, numbers: np.ndarray) -> np.ndarray:
        return quantile_edges(numbers, self.bins or 1)
