"""Bootstrap (Efron and Tibshirani 1993): seeded 95% percentile intervals of all figures at once.

A resample is represented by how often each row was drawn: `weights` (resamples + 1, rows), whose first row stands for
the original rows. A figure of every resample is then a matrix product, and equals scikit-learn's on the rows drawn. Of
very many rows a subsample is resampled, and the interval is narrowed as that of a mean, by the square root of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200
MAX_DRAWN = 2_000_000  # rows, over all resamples
MAX_ROWS = 20_000  # resampled
AT_ONCE = 8  # resamples whose curves are computed at once, so that their arrays fit into the processor's cache
MAX_LABELS = 30  # with intervals of their own figures

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Interval = list[float] | None


@dataclass(frozen=True, slots=True)
class Resamples:
    """Rows drawn with replacement."""

    picked: Ints  # numbers of the rows that are resampled
    weights: Floats  # (resamples + 1, picked)
    narrowing: float = 1.0  # factor on the intervals' width, if only some rows are resampled

    @classmethod
    def of(cls, rows: int, seed: int) -> Resamples:
        generator = np.random.default_rng(seed)
        picked = np.arange(rows) if rows <= MAX_ROWS else np.sort(generator.choice(rows, MAX_ROWS, replace=False))
        count = len(picked)
        resamples = int(np.clip(MAX_DRAWN // max(1, count), 50, RESAMPLES))
        draws = generator.integers(0, count, (resamples, count)) if count else np.zeros((0, 0), int)
        weights = np.stack([np.ones(count), *(np.bincount(draw, minlength=count) for draw in draws)])
        return cls(picked, weights, (count / rows) ** 0.5 if rows else 1.0)

    def sums(self, values: Floats) -> Floats:
        """Return sums of `(rows,)` or `(rows, figures)` over each resample."""
        total: Floats = self.weights @ np.asarray(values, np.float64)[self.picked]
        return total

    def means(self, values: Floats) -> Floats:
        return self.sums(values) / max(1, len(self.picked))

    def interval(self, drawn: Floats, figure: float) -> Interval:
        """Return a figure's interval, given its value for each row of `weights` and for all rows; None if undefined."""
        finite = drawn[1:][np.isfinite(drawn[1:])]
        if len(self.picked) < 2 or not len(finite) or not np.isfinite(drawn[0]):
            return None
        low, high = np.percentile(finite, [2.5, 97.5])
        if self.narrowing == 1.0:
            return [float(low), float(high)]
        return [figure + (float(end) - float(drawn[0])) * self.narrowing for end in (low, high)]


def mean(values: Floats, seed: int) -> Interval:
    """Return the interval of the mean of numbers by row."""
    drawn = Resamples.of(len(values), seed)
    return drawn.interval(drawn.means(values), float(np.mean(values))) if len(values) else None


def classification(
    figures: dict[str, Any], truth: Ints, chosen: Ints, shares: Floats, seed: int
) -> tuple[dict[str, Interval], list[dict[str, Interval]]]:
    """Return intervals of figures by name, and of each label's own figures. `figures` are those of all rows."""
    drawn = Resamples.of(len(truth), seed)
    own = shares[np.arange(len(truth)), truth]
    labels = np.arange(shares.shape[1])
    brier = ((shares - np.eye(len(labels))[truth]) ** 2).sum(1) / (2 if len(labels) == 2 else 1)
    drawn_metrics = {
        "accuracy": drawn.means((truth == chosen).astype(np.float64)),
        "log_loss": drawn.means(-np.log(np.clip(own, np.finfo(shares.dtype).eps, 1.0))),
        "brier": drawn.means(brier),
    }
    actual, predicted = (drawn.sums((of[:, None] == labels).astype(np.float64)) for of in (truth, chosen))
    right = drawn.sums(((truth == chosen)[:, None] & (truth[:, None] == labels)).astype(np.float64))
    f1 = _share(2 * right, predicted + actual)
    occurs = (actual > 0).sum(1)
    drawn_metrics["balanced_accuracy"] = _share(right, actual).sum(1) / np.maximum(occurs, 1)
    drawn_metrics["f1_macro"] = f1.mean(1)
    if len(labels) == 2:
        drawn_metrics["roc_auc"], drawn_metrics["average_precision"] = areas(drawn, truth == 1, shares[:, 1])
    by_label: list[dict[str, Interval]] = []
    for label in labels if len(labels) <= MAX_LABELS else ():
        entry = figures["by_label"][label]
        each = {"precision": _share(right, predicted), "recall": _share(right, actual), "f1": f1}
        by_label.append({name: drawn.interval(values[:, label], entry[name]) for name, values in each.items()})
    known = {
        name: drawn.interval(values, figures[name])
        for name, values in drawn_metrics.items()
        if figures[name] is not None
    }
    return known, by_label


def areas(drawn: Resamples, positive: NDArray[np.bool_], share: Floats) -> tuple[Floats, Floats]:
    """Return area under the ROC curve and average precision of every resample; NaN where it has only one label."""
    order = np.argsort(-share[drawn.picked], kind="stable")
    score, ones = share[drawn.picked][order], positive[drawn.picked][order].astype(np.float64)
    ends = np.flatnonzero(np.append(np.diff(score) != 0, True))  # thresholds: equal scores share one
    several = (drawn.weights[first : first + AT_ONCE, order] for first in range(0, len(drawn.weights), AT_ONCE))
    roc, precision = zip(*(_areas_of(weights, ones, ends) for weights in several), strict=True)
    return np.concatenate(roc), np.concatenate(precision)


def _areas_of(weights: Floats, ones: Floats, ends: Ints) -> tuple[Floats, Floats]:
    """Return both areas of some resamples, from their weights in the order of scores. `ends` are the thresholds."""
    true, every = np.cumsum(weights * ones, axis=1)[:, ends], np.cumsum(weights, axis=1)[:, ends]
    recall = _or_nan(true, true[:, -1:])
    false = _or_nan(every - true, every[:, -1:] - true[:, -1:])
    before_recall, before_false = (np.pad(values[:, :-1], ((0, 0), (1, 0))) for values in (recall, false))
    roc = ((false - before_false) * (recall + before_recall) / 2).sum(1)
    return roc, ((recall - before_recall) * _share(true, every)).sum(1) + 0 * roc


def regression(figures: dict[str, Any], truth: Floats, residual: Floats, seed: int) -> dict[str, Interval]:
    """Return intervals of `rmse`, `mae` and `r2`."""
    drawn = Resamples.of(len(truth), seed)
    squares, centered = drawn.means(residual**2), truth - np.mean(truth)
    spread = drawn.means(centered**2) - drawn.means(centered) ** 2
    drawn_metrics = {"rmse": np.sqrt(squares), "mae": drawn.means(np.abs(residual)), "r2": 1 - _or_nan(squares, spread)}
    return {
        name: drawn.interval(values, figures[name]) if figures[name] is not None else None
        for name, values in drawn_metrics.items()
    }


def _share(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, or 0 where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), 0.0)


def _or_nan(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), np.nan)
