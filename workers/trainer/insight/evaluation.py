"""How good the network is on rows that it was not trained on: scikit-learn's metrics, with `intervals` by bootstrap.

Curves keep at most `POINTS` points. Every number that is not finite becomes None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fitserve.strictjson import finite_json
from workers.trainer.insight import intervals

POINTS = 200
BINS = 10

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
        }
        figures["intervals"], by_label = intervals.classification(figures, truth, chosen, shares, seed)
        for entry, own in zip(figures["by_label"], by_label, strict=False):  # of very many labels, none
            entry["intervals"] = own
    return finite_json(figures, 8)


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
        figures |= {
            "residuals": _residual_deciles(predicted, residual),
            "predicted_actual": _sample(truth, predicted, seed),
            "intervals": intervals.regression(figures, truth, residual, seed),
        }
    return finite_json(figures, 8)


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


def compare(ours: Floats, theirs: Floats, seed: int = 0) -> dict[str, Any]:
    """Mean loss of two predictors on the same rows, and whether the difference is more than chance.

    `ours` and `theirs` are losses by row. The interval is of the mean of `ours - theirs`, by paired bootstrap.
    """
    interval = intervals.mean(ours - theirs, seed)
    verdict = "no different"
    if interval is not None and (interval[1] < 0 or interval[0] > 0):
        verdict = "better" if interval[1] < 0 else "worse"
    return finite_json({"difference": float(np.mean(ours - theirs)), "interval": interval, "verdict": verdict}, 8)


def _normalised(probabilities: Floats) -> Floats:
    """Rows that sum to 1, as scikit-learn wants them; float32 softmax misses it by a rounding."""
    shares = np.clip(np.asarray(probabilities, np.float64), 0.0, 1.0)
    totals = shares.sum(1, keepdims=True)
    return np.where(totals > 0, shares / np.maximum(totals, 1e-300), 1.0 / shares.shape[1])


def _thin(values: Floats) -> Floats:
    if len(values) <= POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)]
