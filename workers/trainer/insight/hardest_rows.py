"""The rows that the network finds hardest, and those whose label is probably wrong, by row number (from 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.strictjson import finite_json

MOST = 50
FAR = 5.0  # robust standard deviations


def hardest_labels(
    rows: NDArray[Any], parts: NDArray[Any], truth: NDArray[Any], probabilities: NDArray[Any], labels: Sequence[str]
) -> dict[str, Any]:
    """Of a classification: the rows of the highest loss, and those that confident learning calls mislabelled.

    Confident learning (Northcutt, Jiang and Chuang 2021): a label's threshold is the mean probability that it gets on
    rows given it; a row is suspect where another label's probability is above that label's threshold and highest.
    Thresholds come from held-out rows. Training rows are judged too; a network that learned them by heart hides them.

    Args:
        rows: row numbers from 1. parts: "train", "validation", "test" of each. truth: label indices.
        probabilities: (rows, labels).
    """
    own = probabilities[np.arange(len(truth)), truth]
    held = parts != "train"
    judged = held if held.sum() >= 10 * len(labels) else np.ones(len(truth), bool)
    thresholds = np.ones(len(labels))
    for index in range(len(labels)):
        given = judged & (truth == index)
        if given.any():
            thresholds[index] = float(probabilities[given, index].mean())
    confident = probabilities >= thresholds
    others = np.where(confident, probabilities, -1.0)
    others[np.arange(len(truth)), truth] = -1.0
    best = others.argmax(1)
    margin = others[np.arange(len(truth)), best] - own
    suspect = np.flatnonzero((others.max(1) >= 0) & (margin > 0))
    suspect = suspect[np.argsort(-margin[suspect], kind="stable")]

    def entry(at: int, other: int) -> dict[str, Any]:
        said = {"row": rows[at], "part": str(parts[at]), "label": labels[truth[at]], "probability": own[at]}
        return {**said, "predicted": labels[other], "predicted_probability": probabilities[at, other]}

    hard = np.argsort(own, kind="stable")[:MOST]
    return finite_json(
        {
            "hardest": [entry(int(at), int(probabilities[at].argmax())) for at in hard],
            "mislabelled": [entry(int(at), int(best[at])) for at in suspect[:MOST]],
            "mislabelled_rows": len(suspect),
            "rows": len(truth),
            "method": "confident learning (Northcutt et al. 2021)",
        },
        digits=8,
    )


def hardest_numbers(
    rows: NDArray[Any], parts: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> dict[str, Any]:
    """Of a regression: the largest residuals; suspect are those beyond `FAR` robust deviations (1.4826 MAD)."""
    residual = predicted.astype(np.float64) - truth
    held = parts != "train"
    judged = residual[held] if held.sum() >= 20 else residual
    middle = float(np.median(judged))
    spread = 1.4826 * float(np.median(np.abs(judged - middle)))
    order = np.argsort(-np.abs(residual), kind="stable")
    far = order[np.abs(residual[order] - middle) > FAR * spread] if spread > 0 else order[:0]

    def entry(at: int) -> dict[str, Any]:
        return {
            "row": rows[at],
            "part": str(parts[at]),
            "actual": truth[at],
            "predicted": predicted[at],
            "residual": residual[at],
        }

    return finite_json(
        {
            "hardest": [entry(int(at)) for at in order[:MOST]],
            "mislabelled": [entry(int(at)) for at in far[:MOST]],
            "mislabelled_rows": len(far),
            "rows": len(truth),
            "method": f"residual beyond {FAR:g} robust standard deviations",
        },
        digits=8,
    )
