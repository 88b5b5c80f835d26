"""Importance of columns: by permutation, and by how well each column predicts the target alone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fitserve.encoding.raw_column import RawColumn
from workers.trainer.insight.evaluation import sample_rows

Inputs = Mapping[str, NDArray[Any]]
RowLosses = Callable[[Inputs, NDArray[np.int64]], NDArray[np.float64]]
REPEATS = 10
ROWS, LEAST_ROWS = 2_000, 300  # evaluated; of many columns, fewer
MANY_COLUMNS = 50
TREE_ROWS = 2_000
TREE_COLUMNS = 100
FOLDS = 3


def permutation_importance(
    columns: Sequence[RawColumn], encoded: Inputs, losses: RowLosses, *, seconds: float, seed: int = 0
) -> list[dict[str, Any]]:
    """Return how much the loss rises when a column is permuted (Breiman 2001), the most important one first.

    Args:
        columns: of the encoder, which say what parts of which inputs they fill; the most promising ones first.
        encoded: network inputs of held-out rows.
        losses: returns the loss of each row, (rows,) float64, given such inputs and the numbers of their rows.
        seconds: time budget; columns that are not reached are left out.
        seed: of the permutations.

    Returns `{"column", "importance", "low", "high", "repeats"}` for each column: the mean rise of the mean loss over
    repeats, with a 95% interval of that mean (normal, over rows and repeats).
    """
    generator = np.random.default_rng(seed)
    rows = len(next(iter(encoded.values())))
    most = int(np.clip(ROWS * MANY_COLUMNS // max(1, len(columns)), LEAST_ROWS, ROWS))
    sampled = np.sort(generator.choice(rows, most, replace=False)) if rows > most else np.arange(rows)
    inputs = {name: np.array(values[sampled]) for name, values in encoded.items()}
    baseline = losses(inputs, sampled)
    rises: dict[str, list[NDArray[np.float64]]] = {column.name: [] for column in columns}
    deadline = time.perf_counter() + seconds
    for repeat in range(REPEATS):
        for column in columns:
            if time.perf_counter() > deadline and (repeat or column is not columns[0]):
                return _importance_entries(rises)
            order = generator.permutation(len(sampled))
            originals = [inputs[one.input][:, one.part].copy() for one in column.parts]
            for one, original in zip(column.parts, originals, strict=True):
                inputs[one.input][:, one.part] = original[order]
            rises[column.name].append(losses(inputs, sampled) - baseline)
            for one, original in zip(column.parts, originals, strict=True):
                inputs[one.input][:, one.part] = original
    return _importance_entries(rises)


def _importance_entries(rises: Mapping[str, Sequence[NDArray[np.float64]]]) -> list[dict[str, Any]]:
    entries = []
    for name, repeats in rises.items():
        if not repeats:
            continue
        count, by_row = len(repeats), np.mean(repeats, axis=0)
        mean = float(by_row.mean())
        over_rows = float(by_row.std(ddof=1) / np.sqrt(len(by_row))) if len(by_row) > 1 else 0.0
        over_repeats = float(np.std([rise.mean() for rise in repeats], ddof=1) / np.sqrt(count)) if count > 1 else 0.0
        half = 1.96 * float(np.hypot(over_rows, over_repeats))
        entry = {"column": name, "importance": mean, "low": mean - half, "high": mean + half, "repeats": count}
        entries.append({key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in entry.items()})
    return sorted(entries, key=lambda entry: -entry["importance"])


def single_column_scores(
    columns: Sequence[RawColumn],
    encoded: Inputs,
    truth: NDArray[Any],
    labels: int,
    *,
    seconds: float,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return how much of the target each column explains alone, highest first; a high value may be a leak.

    Returns `{"column", "explained"}`: 1 - a small tree's loss / the baseline's, out of fold. The loss is the log loss
    (of that many `labels`), or the squared error (`labels` 0). `encoded` and `truth` are training rows. Text columns
    are left out, and columns that are not reached in about `seconds`.
    """
    sampled = sample_rows(len(truth), TREE_ROWS, seed)
    truth = truth[sampled]
    if len(truth) < 30 or len(np.unique(truth)) < 2:
        return []
    if labels and np.bincount(truth.astype(int)).max() > len(truth) - FOLDS:
        return []
    baseline = _baseline_loss(truth, labels)
    deadline, entries = time.perf_counter() + seconds, []
    for column in columns[:TREE_COLUMNS]:
        if time.perf_counter() > deadline:
            break
        parts = [one for one in column.parts if one.suits_trees]
        if not parts:
            continue
        values = np.hstack([encoded[one.input][sampled, one.part] for one in parts])
        explained = 1 - _tree_loss(values, truth, labels, seed) / baseline
        entries.append({"column": column.name, "explained": float(f"{explained:.4g}")})
    return sorted(entries, key=lambda entry: -entry["explained"])


def _baseline_loss(truth: NDArray[Any], labels: int) -> float:
    if not labels:
        return float(np.var(truth))
    shares = np.bincount(truth.astype(int), minlength=labels) / len(truth)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def _tree_loss(values: NDArray[Any], truth: NDArray[Any], labels: int, seed: int) -> float:
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
