"""What simpler models reach on the same rows: the trivial baseline, a linear model, and boosted trees.

A network that does not beat the linear model has not earned its layers; one that boosted trees leave far behind is
underfitting. All three are scikit-learn's, fitted on the network's own encoded training rows.
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

from fitserve.spec.feature import EncodedInput

MULTIPLY_ADDS = 1e9  # that a second of fitting a linear model gets through, carefully estimated
ITERATIONS = 100
MOST_INTEGER_PLACES = 20_000
TREE_COLUMNS = 200
TREE_ROWS = 5_000
ONE_THREAD = 2_000_000  # numbers

_POOLS = functools.cache(ThreadpoolController)  # looks at every loaded library: once is enough
Matrix = Any  # a float32 array or a sparse matrix, (rows, width)


@dataclass(frozen=True, slots=True)
class Reference:
    """A fitted model. `predict` gives probabilities (rows, labels), or numbers (rows,)."""

    name: str
    model: Any
    labels: int  # 0: a regression
    rows: int  # that it was fitted on
    seconds: float

    def predict(self, matrix: Matrix) -> NDArray[np.float64]:
        """Probabilities of every label, also of those that the training rows did not have."""
        with _few_threads(matrix):
            if not self.labels:
                return np.asarray(self.model.predict(matrix), np.float64).reshape(-1)
            found = self.model.predict_proba(matrix)
        whole = np.zeros((found.shape[0], self.labels))
        whole[:, self.model.classes_.astype(int)] = found
        return whole


def design(inputs: Sequence[EncodedInput], encoded: Mapping[str, NDArray[Any]]) -> Matrix:
    """All network inputs side by side: numbers as they are, integers as the set of places that they name.

    Of no width where the integers name too many places for a linear model to be quick.
    """
    parts: list[Any] = []
    for one in inputs:
        values = encoded[one.name]
        if one.dtype == "float32":
            parts.append(values.reshape(len(values), -1))
            continue
        places = int(one.cardinality or int(values.max(initial=0)) + 1)
        if places > MOST_INTEGER_PLACES:
            return np.zeros((len(values), 0), np.float32)
        flat = np.clip(values.reshape(len(values), -1), 0, places - 1)
        rows = np.repeat(np.arange(len(flat)), flat.shape[1])
        ones = np.ones(flat.size, np.float32)
        given = sparse.csr_matrix((ones, (rows, flat.ravel())), (len(flat), places))
        given.data = np.minimum(given.data, 1.0)
        parts.append(given)
    if any(sparse.issparse(part) for part in parts):
        return sparse.hstack([sparse.csr_matrix(part) for part in parts]).tocsr()
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def fit_all(matrix: Matrix, truth: NDArray[Any], labels: int, seconds: float, seed: int) -> dict[str, Reference]:
    """The references that fit into about `seconds`: fewer rows, or no trees, where there is little time.

    `truth` are label indices, or numbers where `labels` is 0.
    """
    found = {"baseline": _timed("baseline", _baseline(labels), matrix, truth, labels)}
    width = int(matrix.shape[1])
    if not width or (labels and len(np.unique(truth)) < 2):
        return found
    work = width * max(1, labels) * (ITERATIONS if labels else max(1, width / 4))
    rows = _sample(len(truth), int(MULTIPLY_ADDS * 0.6 * seconds / max(1, work)), seed)
    if len(rows) >= min(len(truth), 200):
        linear = LogisticRegression(max_iter=ITERATIONS) if labels else Ridge(random_state=seed)
        found["linear"] = _timed("linear", linear, matrix[rows], truth[rows], labels)
    trees = _sample(len(truth), TREE_ROWS, seed)
    cost = (0.1 + len(trees) * width * 4e-7) * max(1, labels if labels > 2 else 1)
    if width <= TREE_COLUMNS and not sparse.issparse(matrix) and cost <= 0.6 * seconds:
        found["trees"] = _timed("trees", _trees(labels, seed), matrix[trees], truth[trees], labels)
    return found


def _baseline(labels: int) -> Any:
    return DummyClassifier(strategy="prior") if labels else DummyRegressor(strategy="mean")


def _trees(labels: int, seed: int) -> Any:
    options: dict[str, Any] = {"max_iter": 40, "max_leaf_nodes": 15, "early_stopping": False, "random_state": seed}
    return HistGradientBoostingClassifier(**options) if labels else HistGradientBoostingRegressor(**options)


def _sample(rows: int, most: int, seed: int) -> NDArray[np.int64]:
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _few_threads(matrix: Matrix) -> Any:
    """Small work waits for threads longer than it takes: one does it."""
    return _POOLS().limit(limits=1 if matrix.shape[0] * matrix.shape[1] < ONE_THREAD else None)


def _timed(name: str, model: Any, matrix: Matrix, truth: NDArray[Any], labels: int) -> Reference:
    begun = time.perf_counter()
    with warnings.catch_warnings(), _few_threads(matrix):
        warnings.simplefilter("ignore")  # lbfgs that would like more iterations is good enough to compare with
        model.fit(matrix, truth)
    return Reference(name, model, labels, int(matrix.shape[0]), time.perf_counter() - begun)
