"""Base classes of encodings by bins between quantiles of the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fitserve.dataset_facts import ColumnFacts, Kind
from fitserve.encoding.coercion import Column, numbers_of
from fitserve.encoding.encoding import ValueWarning
from fitserve.encoding.number import NumericEncoding, RangedColumn, not_finite

_LEAST_WIDTH = 1e-290  # least width of a bin, whose reciprocal is still finite


class BinnedColumn(RangedColumn):
    """`fitted` holds the bins' ascending edges (none if all values are equal), `fill` (the median), `min`, `max`."""

    @cached_property
    def halves(self) -> np.ndarray:
        """Half of each edge, because differences of halves cannot overflow."""
        return np.asarray(self.fitted["edges"], np.float64) / 2

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return max(0, len(self.halves) - 1)

    def located(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each number's bin, and its position within that bin from 0 to 1."""
        edges, halves = self.halves, numbers / 2
        at = np.searchsorted(edges[1:-1], halves, side="right")
        shares = (halves - edges[at]) / np.diff(edges)[at]
        return at, np.where(shares <= 0.0, 0.0, np.minimum(shares, 1.0))  # no negative zero

    def write_number(self, number: float, out: np.ndarray) -> ValueWarning | None:
        self.write_numbers(np.array([number]), np.zeros(1, np.bool_), out[None])
        return self.range_warning(number)

    def baseline_value(self, distribution: Mapping[str, Any]) -> Any:
        return self.fitted["fill"]


class BinnedNumber(NumericEncoding):
    """Base of the encodings of a `BinnedColumn`."""

    kinds: ClassVar[tuple[Kind, ...]] = ("numeric", "datetime")

    def edges(self, numbers: np.ndarray) -> np.ndarray:
        """Return the edges of the training rows' bins."""
        raise NotImplementedError

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        numbers = numbers_of(values)
        present = numbers[~np.isnan(numbers)]
        if not np.isfinite(present).all():
            raise not_finite(facts.name, numbers)
        if not len(present):
            return {"edges": [], "fill": 0.0, "min": 0.0, "max": 0.0}
        low, high = float(np.min(present)), float(np.max(present))
        fill = float(2 * np.median(present / 2))
        return {"edges": self.edges(present).tolist(), "fill": fill, "min": low, "max": high}


def quantile_edges(numbers: np.ndarray, bins: int) -> np.ndarray:
    """Return the distinct quantiles that divide numbers into at most `bins` bins; none if all numbers are equal.

    Edges are numbers of the column, so that those of a discrete one are its values. If a few numbers fill most rows,
    the remaining edges are quantiles of the other numbers.
    """
    edges = np.unique(numbers)
    if len(edges) > bins + 1:
        edges = np.unique(_at_levels(numbers, np.linspace(0.0, 1.0, bins + 1)))
        others, left = numbers[~np.isin(numbers, edges)], bins + 1 - len(edges)
        if left:
            edges = np.union1d(edges, _at_levels(others, np.linspace(0.0, 1.0, left + 2)[1:-1]))
    apart = np.concatenate([[True], np.diff(edges / 2) > _LEAST_WIDTH])
    return edges[apart] if apart.sum() > 1 else edges[:0]


def _at_levels(numbers: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles without interpolation: a difference of two numbers may be infinite."""
    ranks = np.rint(levels * (len(numbers) - 1)).astype(np.int64)
    edges: np.ndarray = np.sort(numbers)[ranks]
    return edges
