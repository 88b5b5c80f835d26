"""95% percentile intervals by bootstrap (Efron and Tibshirani 1993), seeded, of all figures at once.

A resample is written as how often each row was drawn: `weights` (resamples + 1, rows), whose first line is the rows as
they are. A figure of every resample is then a product of matrices, and equals scikit-learn's on the rows drawn. Of very
many rows a subsample is resampled, and the interval shrunk as the spread of a mean shrinks, with the root of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200
MOST_DRAWN = 2_000_000  # rows, over all resamples
MOST_ROWS = 20_000  # that are resampled
MOST_LABELS = 30  # whose own figures have intervals

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Interval = list[float] | None


@dataclass(frozen=True, slots=True)
class Resamples:
    """Rows drawn with replacement. `picked` are the numbers of those that are resampled."""

    picked: Ints
    weights: Floats
    shrunk: float = 1.0

    @classmethod
    def of(cls, rows: int, seed: int) -> Resamples:
        generator = np.random.default_rng(seed)
        picked = np.arange(rows) if rows <= MOST_ROWS else np.sort(generator.choice(rows, MOST_ROWS, replace=False))
        count = len(picked)
        resamples = int(np.clip(MOST_DRAWN // max(1, count), 50, RESAMPLES))
        draws = generator.integers(0, count, (resamples, count)) if count else np.zeros((0, 0), int)
        weights = np.stack([np.ones(count), *(np.bincount(draw, minlength=count) for draw in draws)])
        return cls(picked, weights, (count / rows) ** 0.5 if rows else 1.0)

    def sums(self, values: Floats) -> Floats:
        """Of `(rows,)` or `(rows, figures)`, over each resample."""
        total: Floats = self.weights @ np.asarray(values, np.float64)[self.picked]
        return total

    def means(self, values: Floats) -> Floats:
        return self.sums(values) / max(1, len(self.picked))

    def interval(self, drawn: Floats, figure: float) -> Interval:
        """From a figure of every line of `weights`, and its value on all rows; None where there is nothing to draw."""
        known = drawn[1:][np.isfinite(drawn[1:])]
        if len(self.picked) < 2 or not len(known) or not np.isfinite(drawn[0]):
            return None
        low, high = np.percentile(known, [2.5, 97.5])
        if self.shrunk == 1.0:
            return [float(low), float(high)]
        return [figure + (float(end) - float(drawn[0])) * self.shrunk for end in (low, high)]


def mean(values: Floats, seed: int) -> Interval:
    """Of the mean of numbers by row."""
    drawn = Resamples.of(len(values), seed)
    return drawn.interval(drawn.means(values), float(np.mean(values))) if len(values) else None


def classification(
    figures: dict[str, Any], truth: Ints, chosen: Ints, shares: Floats, seed: int
) -> tuple[dict[str, Interval], list[dict[str, Interval]]]:
    """Of the figures by name, and of each label's own; `figures` are those of all rows."""
    drawn = Resamples.of(len(truth), seed)
    own = shares[np.arange(len(truth)), truth]
    labels = np.arange(shares.shape[1])
    brier = ((shares - np.eye(len(labels))[truth]) ** 2).sum(1) / (2 if len(labels) == 2 else 1)
    found = {
        "accuracy": drawn.means((truth == chosen).astype(np.float64)),
        "log_loss": drawn.means(-np.log(np.clip(own, np.finfo(shares.dtype).eps, 1.0))),
        "brier": drawn.means(brier),
    }
    actual, said = (drawn.sums((of[:, None] == labels).astype(np.float64)) for of in (truth, chosen))
    right = drawn.sums(((truth == chosen)[:, None] & (truth[:, None] == labels)).astype(np.float64))
    f1 = _share(2 * right, said + actual)
    occurs = (actual > 0).sum(1)
    found["balanced_accuracy"] = _share(right, actual).sum(1) / np.maximum(occurs, 1)
    found["f1_macro"] = f1.mean(1)
    if len(labels) == 2:
        found["roc_auc"], found["average_precision"] = areas(drawn, truth == 1, shares[:, 1])
    by_label: list[dict[str, Interval]] = []
    for label in labels if len(labels) <= MOST_LABELS else ():
        entry = figures["by_label"][label]
        each = {"precision": _share(right, said), "recall": _share(right, actual), "f1": f1}
        by_label.append({name: drawn.interval(values[:, label], entry[name]) for name, values in each.items()})
    known = {name: drawn.interval(values, figures[name]) for name, values in found.items() if figures[name] is not None}
    return known, by_label


def areas(drawn: Resamples, positive: NDArray[np.bool_], share: Floats) -> tuple[Floats, Floats]:
    """Of every resample: the area under the ROC curve, and average precision; NaN where it has one label alone."""
    order = np.argsort(-share[drawn.picked], kind="stable")
    score, ones = share[drawn.picked][order], positive[drawn.picked][order].astype(np.float64)
    ends = np.flatnonzero(np.append(np.diff(score) != 0, True))  # thresholds: equal scores fall together
    weights = drawn.weights[:, order]
    true, every = np.cumsum(weights * ones, axis=1)[:, ends], np.cumsum(weights, axis=1)[:, ends]
    recall = _or_nan(true, true[:, -1:])
    false = _or_nan(every - true, every[:, -1:] - true[:, -1:])
    before_recall, before_false = (np.pad(values[:, :-1], ((0, 0), (1, 0))) for values in (recall, false))
    roc = ((false - before_false) * (recall + before_recall) / 2).sum(1)
    return roc, ((recall - before_recall) * _share(true, every)).sum(1) + 0 * roc


def regression(figures: dict[str, Any], truth: Floats, residual: Floats, seed: int) -> dict[str, Interval]:
    """Of `rmse`, `mae` and `r2`."""
    drawn = Resamples.of(len(truth), seed)
    squares, centered = drawn.means(residual**2), truth - np.mean(truth)
    spread = drawn.means(centered**2) - drawn.means(centered) ** 2
    found = {"rmse": np.sqrt(squares), "mae": drawn.means(np.abs(residual)), "r2": 1 - _or_nan(squares, spread)}
    return {
        name: drawn.interval(values, figures[name]) if figures[name] is not None else None
        for name, values in found.items()
    }


def _share(part: Floats, whole: Floats) -> Floats:
    """0 where there is nothing to have a share of."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), 0.0)


def _or_nan(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), np.nan)
