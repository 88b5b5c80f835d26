"""How good the network is on rows that it was not trained on: scikit-learn's metrics, with bootstrap intervals.

Intervals are 95% percentile intervals (Efron and Tibshirani 1993) over `RESAMPLES` resamples of the rows, seeded; what
is resampled is written for all resamples at once, and equals scikit-learn's on each.
Curves keep at most `POINTS` points. Every number that is not finite becomes None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn import metrics
from sklearn.calibration import calibration_curve

RESAMPLES = 200
POINTS = 200
BINS = 10
MOST_DRAWN = 2_000_000  # rows, over all resamples
MOST_RESAMPLED = 20_000  # rows; of more, the intervals are those of so many, scaled: see `_interval`

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def classification(
    truth: Ints,
    probabilities: Floats,
    labels: Sequence[str],
    *,
    threshold: float | None = None,
    seed: int = 0,
    brief: bool = False,
) -> dict[str, Any]:
    """Figures of a classification with one label a row.

    Args:
        truth: label indices, (rows,).
        probabilities: (rows, labels); of a binary target too, column 1 being what `labels[1]` means.
        labels: their names, in order.
        threshold: of a binary target: where the positive label begins, chosen on other rows (`best_threshold`).
        seed: of the bootstrap.
        brief: single numbers alone: no curves, no figures by label, no intervals.
    """
    shares = _normalised(probabilities)
    chosen = shares.argmax(1) if len(labels) > 2 else (shares[:, 1] >= 0.5).astype(int)
    known = np.arange(len(labels))
    figures: dict[str, Any] = {
        "rows": len(truth),
        "accuracy": metrics.accuracy_score(truth, chosen),
        "balanced_accuracy": _balanced_accuracy(truth, chosen),
        "log_loss": metrics.log_loss(truth, shares, labels=known),
        "balanced_log_loss": metrics.log_loss(truth, shares, labels=known, sample_weight=_balanced(truth)),
        "brier": _brier(truth, shares),
        "f1_macro": metrics.f1_score(truth, chosen, labels=known, average="macro", zero_division=0.0),
        "f1_weighted": metrics.f1_score(truth, chosen, labels=known, average="weighted", zero_division=0.0),
        "calibration_error": _calibration_error(truth, shares),
        "roc_auc": _roc_auc(truth, shares),
    }
    if len(labels) == 2:
        figures |= _binary(truth, shares[:, 1], threshold)
    if not brief:
        figures |= {
            "labels": list(labels),
            "confusion": metrics.confusion_matrix(truth, chosen, labels=known).tolist(),
            "by_label": _by_label(truth, chosen, shares, labels),
            "intervals": _classification_intervals(truth, chosen, shares, seed),
        }
    return plain(figures)


def _roc_auc(truth: Ints, shares: Floats) -> float | None:
    """The area under the ROC curve; of several labels the mean of each against the rest, where it occurs."""
    if shares.shape[1] == 2:
        return float(metrics.roc_auc_score(truth, shares[:, 1])) if len(np.unique(truth)) == 2 else None
    own = [index for index in range(shares.shape[1]) if 0 < (truth == index).sum() < len(truth)]
    areas = [metrics.roc_auc_score(truth == index, shares[:, index]) for index in own]
    return float(np.mean(areas)) if areas else None


def _binary(truth: Ints, positive: Floats, threshold: float | None) -> dict[str, Any]:
    both = len(np.unique(truth)) == 2
    figures: dict[str, Any] = {
        "average_precision": metrics.average_precision_score(truth, positive) if both else None,
    }
    if threshold is not None:
        chosen = (positive >= threshold).astype(int)
        figures["best_threshold"] = {
            "threshold": threshold,
            "chosen_by": "f1 on the validation part",
            "f1": metrics.f1_score(truth, chosen, zero_division=0.0),
            "precision": metrics.precision_score(truth, chosen, zero_division=0.0),
            "recall": metrics.recall_score(truth, chosen, zero_division=0.0),
            "accuracy": metrics.accuracy_score(truth, chosen),
        }
    return figures


def best_threshold(truth: Ints, positive: Floats) -> float | None:
    """The threshold of the highest F1 on these rows; None where they all have one label."""
    if len(np.unique(truth)) < 2:
        return None
    precision, recall, thresholds = metrics.precision_recall_curve(truth, positive)
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(np.argmax(scores[:-1]))])


def _by_label(truth: Ints, chosen: Ints, shares: Floats, labels: Sequence[str]) -> list[dict[str, Any]]:
    known = np.arange(len(labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, chosen, labels=known, zero_division=0.0
    )
    entries = []
    for index, label in enumerate(labels):
        entry: dict[str, Any] = {
            "label": label,
            "precision": precision[index],
            "recall": recall[index],
            "f1": f1[index],
            "support": int(support[index]),
            "roc_auc": None,
        }
        own = (truth == index).astype(int)
        if 0 < own.sum() < len(own):
            entry |= _curves(own, shares[:, index])
        entries.append(entry)
    return entries


def _curves(own: Ints, share: Floats) -> dict[str, Any]:
    """ROC, precision and recall, and calibration of one label against the rest."""
    false_positive, true_positive, _ = metrics.roc_curve(own, share)
    precision, recall, _ = metrics.precision_recall_curve(own, share)
    observed, predicted = calibration_curve(own, share, n_bins=BINS, strategy="uniform")
    counts = np.histogram(share, np.linspace(0, 1, BINS + 1))[0]
    return {
        "roc_auc": metrics.roc_auc_score(own, share),
        "average_precision": metrics.average_precision_score(own, share),
        "roc": {"false_positive": _thin(false_positive), "true_positive": _thin(true_positive)},
        "pr": {"recall": _thin(recall), "precision": _thin(precision)},
        "calibration": {"predicted": predicted, "observed": observed, "rows": counts[counts > 0]},
    }


def _balanced(truth: Ints) -> Floats:
    """Weights under which every label that occurs counts the same."""
    return (1.0 / np.bincount(truth)[truth]) * len(truth) / len(np.unique(truth))


def _brier(truth: Ints, shares: Floats) -> float:
    """The binary Brier score, or the sum over labels of several (Brier 1950)."""
    if shares.shape[1] == 2:
        return float(metrics.brier_score_loss(truth, shares[:, 1], pos_label=1))
    return float(((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(1).mean())


def _calibration_error(truth: Ints, shares: Floats) -> float:
    """Expected calibration error of the likeliest label over ten bins (Naeini et al. 2015)."""
    sure, right = shares.max(1), shares.argmax(1) == truth
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    total = 0.0
    for index in range(BINS):
        inside = bins == index
        if inside.any():
            total += inside.mean() * abs(float(right[inside].mean()) - float(sure[inside].mean()))
    return total


def _balanced_accuracy(truth: Ints, chosen: Ints) -> float:
    """Mean recall over the labels that occur; scikit-learn's, which warns where predictions have other labels."""
    return float(metrics.recall_score(truth, chosen, labels=np.unique(truth), average="macro", zero_division=0.0))


def _classification_intervals(truth: Ints, chosen: Ints, shares: Floats, seed: int) -> dict[str, Any]:
    right = (truth == chosen).astype(np.float64)
    loss = -np.log(np.clip(shares[np.arange(len(truth)), truth], np.finfo(shares.dtype).eps, 1.0))
    intervals: dict[str, Any] = {
        "accuracy": _interval(right, seed),
        "log_loss": _interval(loss, seed),
    }
    draws = _draws(len(truth), seed)
    intervals["balanced_accuracy"] = _percentiles(_drawn_recalls(truth[draws], right[draws], shares.shape[1]))
    if shares.shape[1] == 2:
        intervals["roc_auc"] = _percentiles(_drawn_areas(truth[draws] == 1, shares[:, 1][draws]))
    return intervals


def _drawn_recalls(truth: Ints, right: Floats, labels: int) -> Floats:
    """Balanced accuracy of every draw; `truth` and `right` are (draws, rows)."""
    total, found = np.zeros(len(truth)), np.zeros(len(truth))
    for label in range(labels):
        own = truth == label
        counts = own.sum(1)
        total += np.where(counts > 0, (right * own).sum(1) / np.maximum(counts, 1), 0.0)
        found += counts > 0
    return total / np.maximum(found, 1)


def _drawn_areas(positive: NDArray[np.bool_], share: Floats) -> Floats:
    """The area under the ROC curve of every draw with both labels: Mann and Whitney's statistic."""
    ranks = rankdata(share, axis=1)
    ones = positive.sum(1).astype(np.float64)
    both = (ones > 0) & (ones < positive.shape[1])
    ones, zeros = ones[both], positive.shape[1] - ones[both]
    return ((ranks * positive).sum(1)[both] - ones * (ones + 1) / 2) / (ones * zeros)


def regression(truth: Floats, predicted: Floats, *, seed: int = 0, brief: bool = False) -> dict[str, Any]:
    """Figures of a regression in the target's own units; `truth` and `predicted` are (rows,)."""
    residual = predicted.astype(np.float64) - truth
    enough = len(truth) > 1 and float(np.ptp(truth)) > 0
    figures: dict[str, Any] = {
        "rows": len(truth),
        "rmse": metrics.root_mean_squared_error(truth, predicted),
        "mae": metrics.mean_absolute_error(truth, predicted),
        "median_absolute_error": metrics.median_absolute_error(truth, predicted),
        "r2": metrics.r2_score(truth, predicted) if enough else None,
    }
    if not brief:
        squares = _interval(residual**2, seed)
        figures |= {
            "residuals": _residual_deciles(predicted, residual),
            "predicted_actual": _sample(truth, predicted, seed),
            "intervals": {
                "rmse": squares and [value**0.5 for value in squares],
                "mae": _interval(np.abs(residual), seed),
                "r2": _r2_interval(truth, residual, seed) if enough else None,
            },
        }
    return plain(figures)


def _residual_deciles(predicted: Floats, residual: Floats) -> list[dict[str, Any]]:
    """Residuals (predicted less actual) within tenths of the rows, ordered by what was predicted."""
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), 10) if len(part)]
    return [
        {
            "rows": len(part),
            "from": predicted[part[0]],
            "to": predicted[part[-1]],
            "mean": residual[part].mean(),
            "rmse": np.sqrt((residual[part] ** 2).mean()),
            "low": np.quantile(residual[part], 0.1),
            "high": np.quantile(residual[part], 0.9),
        }
        for part in parts
    ]


def _sample(truth: Floats, predicted: Floats, seed: int, most: int = 500) -> dict[str, Any]:
    rows = np.arange(len(truth))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
    return {"actual": truth[rows], "predicted": predicted[rows]}


def _r2_interval(truth: Floats, residual: Floats, seed: int) -> list[float] | None:
    draws = _draws(len(truth), seed)
    total = np.var(truth[draws], axis=1)
    return _percentiles(1 - np.mean(residual[draws] ** 2, axis=1)[total > 0] / total[total > 0])


def compare(ours: Floats, theirs: Floats, seed: int = 0) -> dict[str, Any]:
    """Mean loss of two predictors on the same rows, and whether the difference is more than chance.

    `ours` and `theirs` are losses by row. The interval is of the mean of `ours - theirs`, by paired bootstrap.
    """
    interval = _interval(ours - theirs, seed)
    verdict = "no different"
    if interval is not None and (interval[1] < 0 or interval[0] > 0):
        verdict = "better" if interval[1] < 0 else "worse"
    return plain({"difference": float(np.mean(ours - theirs)), "interval": interval, "verdict": verdict})


def _interval(values: Floats, seed: int) -> list[float] | None:
    """The 95% interval of a mean. Of very many rows a subsample is resampled; its spread shrinks with sqrt(rows)."""
    if len(values) < 2:
        return None
    if len(values) > MOST_RESAMPLED:
        part = np.random.default_rng(seed).choice(values, MOST_RESAMPLED, replace=False)
        low, high = _interval(part, seed) or (0.0, 0.0)
        shrunk = (MOST_RESAMPLED / len(values)) ** 0.5
        center, middle = float(part.mean()), float(values.mean())
        return [middle + (low - center) * shrunk, middle + (high - center) * shrunk]
    return _percentiles(values[_draws(len(values), seed)].mean(1))


def _draws(rows: int, seed: int) -> Ints:
    """Row numbers, with replacement: (resamples, rows). Fewer resamples of very many rows."""
    size = min(rows, MOST_RESAMPLED)
    resamples = int(np.clip(MOST_DRAWN // max(1, size), 50, RESAMPLES))
    return np.random.default_rng(seed).integers(0, rows, (resamples, size))


def _percentiles(values: Floats) -> list[float] | None:
    return [float(value) for value in np.percentile(values, [2.5, 97.5])] if len(values) else None


def _normalised(probabilities: Floats) -> Floats:
    """Rows that sum to 1, as scikit-learn wants them; float32 softmax misses it by a rounding."""
    shares = np.clip(np.asarray(probabilities, np.float64), 0.0, 1.0)
    totals = shares.sum(1, keepdims=True)
    return np.where(totals > 0, shares / np.maximum(totals, 1e-300), 1.0 / shares.shape[1])


def _thin(values: Floats) -> Floats:
    if len(values) <= POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)]


def plain(value: Any) -> Any:
    """JSON values, with six significant digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    if isinstance(value, np.integer):
        return int(value)
    number = float(value)
    return float(f"{number:.8g}") if np.isfinite(number) else None
