"""How much of the target each column explains by itself: what a leaking column gives away."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fitserve.encoding import FittedColumn

ROWS = 2_000
COLUMNS = 100
FOLDS = 3


def explained_alone(
    columns: Sequence[FittedColumn],
    encoded: Mapping[str, NDArray[Any]],
    truth: NDArray[Any],
    labels: int,
    *,
    seconds: float,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Entries `{"column", "explained"}`, most first: 1 - a small tree's loss / the baseline's, out of fold.

    The loss is the log loss (`labels` of them), or the squared error (`labels` 0). `encoded` and `truth` are training
    rows. Text columns are left out, and columns that are not reached in about `seconds`.
    """
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.choice(len(truth), ROWS, replace=False)) if len(truth) > ROWS else np.arange(len(truth))
    truth = truth[kept]
    if len(truth) < 30 or len(np.unique(truth)) < 2:
        return []
    if labels and np.bincount(truth.astype(int)).max() > len(truth) - FOLDS:
        return []
    base = _baseline(truth, labels)
    deadline, entries = time.perf_counter() + seconds, []
    for column in columns[:COLUMNS]:
        if time.perf_counter() > deadline:
            break
        if not column.suits_trees:
            continue
        values = encoded[column.input][kept, column.part]
        entries.append(
            {"column": column.name, "explained": float(f"{1 - _loss(values, truth, labels, seed) / base:.4g}")}
        )
    return sorted(entries, key=lambda entry: -entry["explained"])


def _baseline(truth: NDArray[Any], labels: int) -> float:
    if not labels:
        return float(np.var(truth))
    shares = np.bincount(truth.astype(int), minlength=labels) / len(truth)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def _loss(values: NDArray[Any], truth: NDArray[Any], labels: int, seed: int) -> float:
    leaf = max(5, len(truth) // 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels with fewer rows than folds
        if not labels:
            tree = DecisionTreeRegressor(max_depth=8, min_samples_leaf=leaf, random_state=seed)
            folds: Any = KFold(FOLDS, shuffle=True, random_state=seed)
            return float(np.mean((cross_val_predict(tree, values, truth, cv=folds) - truth) ** 2))
        model = DecisionTreeClassifier(max_depth=6, min_samples_leaf=leaf, random_state=seed)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        _, codes = np.unique(truth, return_inverse=True)
        shares = cross_val_predict(model, values, codes, cv=folds, method="predict_proba")
        return float(-np.log(np.clip(shares[np.arange(len(codes)), codes], 1e-3, 1.0)).mean())
