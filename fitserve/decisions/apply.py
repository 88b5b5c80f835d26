"""Apply a decision in force to probabilities. Imports only NumPy, because the prediction service runs it.

A decision in force is JSON: `{"output", "asked", "method", ..., "abstain", "chosen_on", "figures"}`, by `method`

- likeliest: nothing more.
- threshold: `label` is answered from `threshold` on, else the likeliest of the others.
- thresholds: of a multi-label target, a threshold for each label.
- weights: the label whose probability times its weight is largest.
- costs: the label with the least expected cost, by `costs[actual][predicted]`, of probabilities to the power `power`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def shares_of(values: npt.NDArray[Any], labels: int) -> Floats:
    """Return each label's probability, (rows, labels), float64; a single unit gives those of both its labels."""
    shares = np.asarray(values, np.float64).reshape(len(values), -1)
    return np.concatenate([1.0 - shares, shares], axis=1) if shares.shape[1] == 1 and labels == 2 else shares


def likeliest(shares: Floats) -> Ints:
    """Return the place of the largest probability, (rows,); on a tie of two labels the second."""
    if shares.shape[1] == 2:
        return (shares[:, 1] >= shares[:, 0]).astype(np.int64)
    return np.asarray(shares.argmax(axis=1), np.int64)


def from_threshold(shares: Floats, place: int, threshold: float) -> Ints:
    """Predict the label at `place` from a probability on, else the likeliest of the others, (rows,)."""
    others = np.array(shares)
    others[:, place] = -np.inf
    return np.where(shares[:, place] >= threshold, place, others.argmax(axis=1))


def least_cost(shares: Floats, costs: Floats, power: float) -> Ints:
    """Return the label with the least expected cost, (rows,); `costs` are (actual, predicted)."""
    weighted = np.power(np.clip(shares, 0.0, 1.0), power)
    totals = weighted.sum(axis=1, keepdims=True)
    weighted = weighted / np.where(totals > 0, totals, 1.0)
    return np.asarray((weighted @ costs).argmin(axis=1), np.int64)


class Decider:
    """A decision in force, ready to decide rows."""

    def __init__(self, decision: Mapping[str, Any], labels: Sequence[str]) -> None:
        self.labels = tuple(map(str, labels))
        self.method = str(decision["method"])
        self.abstain: Mapping[str, Any] = decision.get("abstain") or {}
        self._place = self.labels.index(decision["label"]) if self.method == "threshold" else 0
        self._threshold = float(decision.get("threshold", 0.5))
        self._power = float(decision.get("power", 1.0))
        by_label: Mapping[str, Any] = decision.get("weights") or decision.get("thresholds") or {}
        self._by_label = np.array([float(by_label.get(label, 0.5)) for label in self.labels])
        if self.method == "costs":
            self._costs = cost_matrix(decision["costs"], self.labels)

    def places(self, values: npt.NDArray[Any]) -> Ints:
        """Return the place of the label that each row is given, (rows,). Not of a multi-label target."""
        shares = shares_of(values, len(self.labels))
        if self.method == "threshold":
            return from_threshold(shares, self._place, self._threshold)
        if self.method == "weights":
            return np.asarray((shares * self._by_label).argmax(axis=1), np.int64)
        if self.method == "costs":
            return least_cost(shares, self._costs, self._power)
        return likeliest(shares)

    def applies(self, values: npt.NDArray[Any]) -> Booleans:
        """Return whether each label of a multi-label target applies, (rows, labels)."""
        return np.asarray(np.asarray(values, np.float64) >= self._by_label, np.bool_)


def cost_matrix(costs: Mapping[str, Mapping[str, float]], labels: Sequence[str]) -> Floats:
    """Return the costs by actual and predicted label, (labels, labels): 0 where right, 1 where nothing is stated."""
    matrix = 1.0 - np.eye(len(labels))
    for actual, row in costs.items():
        for predicted, cost in row.items():
            matrix[labels.index(actual), labels.index(predicted)] = cost
    return np.asarray(matrix, np.float64)
