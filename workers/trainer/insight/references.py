"""Simpler models to compare the network with: a trivial baseline, a linear model, and boosted trees.

A network that is no better than the linear model does not need its layers; one that is far worse than boosted trees
underfits. All three are scikit-learn's, fitted on the network's own encoded training rows.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import ThreadpoolController

from fitserve.encoder import Encoder
from fitserve.spec.feature import EncodedInput
from workers.trainer.insight.evaluation import sample_rows

MULTIPLY_ADDS = 1e9  # in a second of fitting a linear model, conservatively estimated
ITERATIONS = 100
MAX_CARDINALITY = 20_000  # distinct values of an integer input
TREE_COLUMNS = 200
TREE_ROWS = 5_000
ONE_THREAD = 2_000_000  # numbers in a matrix, below which one thread is faster

_POOLS = functools.cache(ThreadpoolController)  # created only once, because it inspects every loaded library
Matrix = Any  # a float32 array or a sparse matrix, (rows, width)


@dataclass(frozen=True, slots=True)
class Reference:
    """A fitted model. `predict` gives probabilities (rows, labels), or numbers (rows,)."""

    model: Any
    labels: int  # 0: a regression
    rows: int  # used for fitting
    seconds: float

    def predict(self, matrix: Matrix) -> NDArray[np.float64]:
        """Return probabilities of every label, including labels that the training rows lack; or numbers."""
        with _threads_for(matrix):
            if not self.labels:
                return np.asarray(self.model.predict(matrix), np.float64).reshape(-1)
            known = self.model.predict_proba(matrix)
        probabilities = np.zeros((known.shape[0], self.labels))
        probabilities[:, self.model.classes_.astype(int)] = known
        return probabilities


def simple_places(encoder: Encoder) -> dict[str, NDArray[np.int64]]:
    """Return the places of each input of real numbers, without encodings that only spread a number out again.

    Trees find their own thresholds, and a linear model should be linear in the column itself.
    """
    left_out: dict[str, list[int]] = {}
    for column in encoder.raw_columns:
        spread_out = [part for part in column.parts if part.encoding.type in ("piecewise_linear", "periodic")]
        if len(spread_out) < len(column.parts):
            for part in spread_out:
                left_out.setdefault(part.input, []).extend(range(part.offset, part.offset + part.width))
    return {
        one.name: np.setdiff1d(np.arange(one.shape[0]), left_out.get(one.name, []))
        for one in encoder.inputs
        if one.dtype == "float32"
    }


def design(
    inputs: Sequence[EncodedInput],
    encoded: Mapping[str, NDArray[Any]],
    places: Mapping[str, NDArray[np.int64]] | None = None,
) -> Matrix:
    """Return all network inputs side by side: numbers as they are (those of `places`, if given), integers multi-hot.

    The matrix has no columns where an integer input has too many values for a fast linear model.
    """
    parts: list[Any] = []
    for one in inputs:
        values = encoded[one.name]
        if one.dtype == "float32":
            parts.append(values.reshape(len(values), -1) if places is None else values[:, places[one.name]])
            continue
        cardinality = int(one.cardinality or int(values.max(initial=0)) + 1)
        if cardinality > MAX_CARDINALITY:
            return np.zeros((len(values), 0), np.float32)
        flat = np.clip(values.reshape(len(values), -1), 0, cardinality - 1)
        rows = np.repeat(np.arange(len(flat)), flat.shape[1])
        ones = np.ones(flat.size, np.float32)
        multi_hot = sparse.csr_matrix((ones, (rows, flat.ravel())), (len(flat), cardinality))
        multi_hot.data = np.minimum(multi_hot.data, 1.0)
        parts.append(multi_hot)
    if any(sparse.issparse(part) for part in parts):
        return sparse.hstack([sparse.csr_matrix(part) for part in parts]).tocsr()
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def fit_all(matrix: Matrix, truth: NDArray[Any], labels: int, seconds: float, seed: int) -> dict[str, Reference]:
    """Fit the references within about `seconds`: on fewer rows, or without trees, where there is little time.

    `truth` are label indices, or numbers where `labels` is 0.
    """
    baseline = DummyClassifier(strategy="prior") if labels else DummyRegressor(strategy="mean")
    fitted = {"baseline": _fit(baseline, matrix, truth, labels)}
    width = int(matrix.shape[1])
    if not width or (labels and len(np.unique(truth)) < 2):
        return fitted
    work = width * max(1, labels) * (ITERATIONS if labels else max(1, width / 4))
    rows = sample_rows(len(truth), int(MULTIPLY_ADDS * 0.6 * seconds / max(1, work)), seed)
    if len(rows) >= min(len(truth), 200):
        linear = LogisticRegression(max_iter=ITERATIONS) if labels else Ridge(random_state=seed)
        fitted["linear"] = _fit(linear, matrix[rows], truth[rows], labels)
    trees = sample_rows(len(truth), TREE_ROWS, seed)
    cost = (0.1 + len(trees) * width * 4e-7) * max(1, labels if labels > 2 else 1)
    if width <= TREE_COLUMNS and not sparse.issparse(matrix) and cost <= 0.6 * seconds:
        fitted["trees"] = _fit(_trees(labels, seed), matrix[trees], truth[trees], labels)
    return fitted


def _trees(labels: int, seed: int) -> Any:
    options: dict[str, Any] = {"max_iter": 40, "max_leaf_nodes": 15, "early_stopping": False, "random_state": seed}
    return HistGradientBoostingClassifier(**options) if labels else HistGradientBoostingRegressor(**options)


def _threads_for(matrix: Matrix) -> Any:
    """Limit small work to one thread, because synchronising several would take longer."""
    return _POOLS().limit(limits=1 if matrix.shape[0] * matrix.shape[1] < ONE_THREAD else None)


def _fit(model: Any, matrix: Matrix, truth: NDArray[Any], labels: int) -> Reference:
    begun = time.perf_counter()
    with warnings.catch_warnings(), _threads_for(matrix):
        warnings.simplefilter("ignore")  # a linear model that has not converged is good enough as a reference
        model.fit(matrix, truth)
    return Reference(model, labels, int(matrix.shape[0]), time.perf_counter() - begun)
