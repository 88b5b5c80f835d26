"""Figures of a network on rows that it was not trained on: scikit-learn's metrics, with bootstrap `intervals`.

Curves keep at most `POINTS` points. Every number that is not finite becomes None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fitserve.strictjson import finite_json
from fitserve.target_encoder import FittedTarget, TargetEncoder
from workers.trainer.insight import intervals

POINTS = 200
SAMPLE = 500  # predictions shown beside the actual values
BINS = 10

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


class LabelScores(NamedTuple):
    """Scores of the chosen labels, each (labels,), counted once: each count of scikit-learn takes a millisecond."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


def classification(
    truth: Ints,
    probabilities: Floats,
    labels: Sequence[str],
    *,
    threshold: float | None = None,
    seed: int = 0,
    brief: bool = False,
) -> dict[str, Any]:
    """Evaluate a classification with one label for each row.

    Args:
        truth: label indices, (rows,).
        probabilities: (rows, labels), also of a binary target; column 1 is the probability of `labels[1]`.
        labels: their names, in order.
        threshold: of a binary target, the probability above which a row is positive, chosen on other rows
            (`best_threshold`).
        seed: of the bootstrap.
        brief: leave out curves, figures by label, and intervals.
    """
    shares = _normalised(probabilities)
    chosen = shares.argmax(1) if len(labels) > 2 else (shares[:, 1] >= 0.5).astype(int)
    known = np.arange(len(labels))
    scores = LabelScores(*metrics.precision_recall_fscore_support(truth, chosen, labels=known, zero_division=0.0))
    figures: dict[str, Any] = {
        "rows": len(truth),
        "accuracy": metrics.accuracy_score(truth, chosen),
        "balanced_accuracy": _balanced_accuracy(truth, chosen),
        "log_loss": metrics.log_loss(truth, shares, labels=known),
        "balanced_log_loss": metrics.log_loss(truth, shares, labels=known, sample_weight=_balanced(truth)),
        "brier": _brier(truth, shares),
        "f1_macro": scores.f1.mean(),
        "f1_weighted": np.average(scores.f1, weights=scores.support),
        "calibration_error": _calibration_error(truth, shares),
        "roc_auc": _roc_auc(truth, shares),
    }
    if len(labels) == 2:
        figures |= _binary(truth, shares[:, 1], threshold)
    if not brief:
        figures |= {
            "labels": list(labels),
            "confusion": metrics.confusion_matrix(truth, chosen, labels=known).tolist(),
            "by_label": _by_label(truth, shares, labels, scores),
        }
        figures["intervals"], by_label = intervals.classification(figures, truth, chosen, shares, seed)
        for entry, own in zip(figures["by_label"], by_label, strict=False):  # none where there are many labels
            entry["intervals"] = own
    return finite_json(figures, 8)


def _roc_auc(truth: Ints, shares: Floats) -> float | None:
    """Return the area under the ROC curve; of several labels the mean over those that occur, each against the rest."""
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
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            truth, chosen, average="binary", zero_division=0.0
        )
        figures["best_threshold"] = {
            "threshold": threshold,
            "chosen_by": "f1 on the validation part",
            "f1": f1,
            "precision": precision,
            "recall": recall,
            "accuracy": metrics.accuracy_score(truth, chosen),
        }
    return figures


def best_threshold(truth: Ints, positive: Floats) -> float | None:
    """Return the threshold with the highest F1 on these rows; None if all have the same label."""
    if len(np.unique(truth)) < 2:
        return None
    precision, recall, thresholds = metrics.precision_recall_curve(truth, positive)
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(np.argmax(scores[:-1]))])


def _by_label(truth: Ints, shares: Floats, labels: Sequence[str], scores: LabelScores) -> list[dict[str, Any]]:
    entries = []
    for index, label in enumerate(labels):
        entry: dict[str, Any] = {
            "label": label,
            "precision": scores.precision[index],
            "recall": scores.recall[index],
            "f1": scores.f1[index],
            "support": int(scores.support[index]),
            "roc_auc": None,
        }
        own = (truth == index).astype(int)
        if 0 < own.sum() < len(own):
            entry |= _curves(own, shares[:, index])
        entries.append(entry)
    return entries


def _curves(own: Ints, share: Floats) -> dict[str, Any]:
    """Return ROC, precision and recall, and calibration of one label against the rest."""
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
    """Return sample weights that give every occurring label the same total."""
    return (1.0 / np.bincount(truth)[truth]) * len(truth) / len(np.unique(truth))


def _brier(truth: Ints, shares: Floats) -> float:
    """Return the Brier score (Brier 1950): of two labels that of the positive one, of several the sum over labels."""
    if shares.shape[1] == 2:
        return float(metrics.brier_score_loss(truth, shares[:, 1], pos_label=1))
    return float(((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(1).mean())


def _calibration_error(truth: Ints, shares: Floats) -> float:
    """Return expected calibration error of the most probable label, over ten bins (Naeini et al. 2015)."""
    confidence, correct = shares.max(1), shares.argmax(1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    total = 0.0
    for index in range(BINS):
        inside = bins == index
        if inside.any():
            total += inside.mean() * abs(float(correct[inside].mean()) - float(confidence[inside].mean()))
    return total


def _balanced_accuracy(truth: Ints, chosen: Ints) -> float:
    """Mean recall over the labels that occur. scikit-learn's function warns where other labels are predicted."""
    return float(metrics.recall_score(truth, chosen, labels=np.unique(truth), average="macro", zero_division=0.0))


def regression(truth: Floats, predicted: Floats, *, seed: int = 0, brief: bool = False) -> dict[str, Any]:
    """Evaluate a regression in the target's own units; `truth` and `predicted` are (rows,)."""
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
        sample = sample_rows(len(truth), SAMPLE, seed)
        figures |= {
            "residuals": _residual_deciles(predicted, residual),
            "predicted_actual": {"actual": truth[sample], "predicted": predicted[sample]},
            "intervals": intervals.regression(figures, truth, residual, seed),
        }
    return finite_json(figures, 8)


def _residual_deciles(predicted: Floats, residual: Floats) -> list[dict[str, Any]]:
    """Return residuals (predicted minus actual) within tenths of the rows, ordered by prediction."""
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


def sample_rows(rows: int, most: int, seed: int) -> Ints:
    """Return the numbers of all rows, or of `most` of them drawn at random, in order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def compare(ours: Floats, theirs: Floats, seed: int = 0) -> dict[str, Any]:
    """Compare the mean losses of two predictors, and test whether they differ by more than chance.

    `ours` and `theirs` are the losses of the same rows. The interval is that of the mean of `ours - theirs`, by paired
    bootstrap.
    """
    interval = intervals.mean(ours - theirs, seed)
    verdict = "no different"
    if interval is not None and (interval[1] < 0 or interval[0] > 0):
        verdict = "better" if interval[1] < 0 else "worse"
    return finite_json({"difference": float(np.mean(ours - theirs)), "interval": interval, "verdict": verdict}, 8)


def _normalised(probabilities: Floats) -> Floats:
    """Normalise rows to sum to 1, as scikit-learn requires; a float32 softmax is off by rounding."""
    shares = np.clip(np.asarray(probabilities, np.float64), 0.0, 1.0)
    totals = shares.sum(1, keepdims=True)
    return np.where(totals > 0, shares / np.maximum(totals, 1e-300), 1.0 / shares.shape[1])


def _thin(values: Floats) -> Floats:
    if len(values) <= POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)]


def simple_figures(targets: TargetEncoder, table: pa.Table, predictions: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return by target `accuracy` (multilabel: over all labels), or `r2`, `mae` and `rmse` in the target's units."""
    truth = targets.encode(table)
    return {
        target.name: _simple_figures(target, truth[target.name], predictions[target.name]) for target in targets.targets
    }


def _simple_figures(target: FittedTarget, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    if target.encoding == "binary":
        return {"accuracy": float(np.mean((predicted > 0.5) == (truth > 0.5)))}
    if target.task != "regression":
        labels = truth.argmax(axis=-1) if target.encoding == "one_hot" else truth
        return {"accuracy": float(np.mean(predicted.argmax(axis=-1) == labels))}
    truth, predicted = target.inverse(truth.astype(np.float64)), predicted.astype(np.float64)
    if predicted.shape != truth.shape:  # quantiles: take the middle one
        predicted = predicted[:, predicted.shape[1] // 2 :][:, : truth.shape[1]]
    residual = truth - predicted
    total = float(((truth - truth.mean(axis=0)) ** 2).sum())
    return {
        "r2": 1.0 - float((residual**2).sum()) / total if total else float("nan"),
        "mae": float(np.abs(residual).mean()),
        "rmse": float(np.sqrt((residual**2).mean())),
    }
