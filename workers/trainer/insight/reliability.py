"""Reliability of probabilities before and after calibration, on the same rows: figures with intervals, and curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from fitserve.strictjson import finite_json
from workers.trainer.insight.intervals import Resamples

BINS = 10

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def report(truth: Ints, before: Floats, after: Floats, labels: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Compare probabilities (rows, labels) before and after calibration.

    Every figure has a 95% interval; so has the difference, after minus before, on the same resamples.
    """
    drawn = Resamples.of(len(truth), seed)
    figures: dict[str, Any] = {}
    draws: dict[str, dict[str, Floats]] = {}
    for name, shares in (("before", before), ("after", after)):
        draws[name] = _draws(drawn, truth, shares)
        own = {figure: float(_figure(figure, truth, shares)) for figure in draws[name]}
        ends = {figure: drawn.interval(values, own[figure]) for figure, values in draws[name].items()}
        figures[name] = {**own, "intervals": ends, "by_label": _curves(truth, shares, labels)}
    changes = {
        figure: {
            "difference": figures["after"][figure] - figures["before"][figure],
            "interval": drawn.interval(
                values - draws["before"][figure], figures["after"][figure] - figures["before"][figure]
            ),
        }
        for figure, values in draws["after"].items()
    }
    return dict(finite_json({"rows": len(truth), **figures, "change": changes}, 8))


def _figure(name: str, truth: Ints, shares: Floats) -> float:
    single = Resamples(np.arange(len(truth)), np.ones((1, len(truth))))
    return float(_draws(single, truth, shares)[name][0])


def _draws(drawn: Resamples, truth: Ints, shares: Floats) -> dict[str, Floats]:
    """Return log loss, Brier score and expected calibration error of the likeliest label on every resample."""
    own = shares[np.arange(len(truth)), truth]
    squares = ((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(1) / (2 if shares.shape[1] == 2 else 1)
    confidence, right = shares.max(1), shares.argmax(1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.where(bins[:, None] == np.arange(BINS), (right - confidence)[:, None], 0.0)
    return {
        "log_loss": drawn.means(-np.log(np.clip(own, 1e-12, 1.0))),
        "brier": drawn.means(squares),
        "calibration_error": np.abs(drawn.sums(gaps)).sum(1) / max(1, len(drawn.picked)),
    }


def _curves(truth: Ints, shares: Floats, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return each label's reliability curve, as `evaluation.classification` has it; None where it does not occur."""
    curves = []
    for index, label in enumerate(labels):
        own, curve = truth == index, None
        if 0 < own.sum() < len(own):
            share = np.clip(shares[:, index], 0.0, 1.0)
            observed, predicted = calibration_curve(own, share, n_bins=BINS, strategy="uniform")
            counts = np.histogram(share, np.linspace(0, 1, BINS + 1))[0]
            curve = {"predicted": predicted, "observed": observed, "rows": counts[counts > 0]}
        curves.append({"label": label, "calibration": curve})
    return curves
