"""The rows with the highest loss, and those whose label is probably wrong, by row number (from 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.strictjson import finite_json

LISTED = 50
OUTLIER = 5.0  # robust standard deviations


def hardest_labels(
    rows: NDArray[Any], parts: NDArray[Any], truth: NDArray[Any], probabilities: NDArray[Any], labels: Sequence[str]
) -> dict[str, Any]:
    """Return the hardest rows of a classification, and those that confident learning considers mislabelled.

    Confident learning (Northcutt, Jiang and Chuang 2021): a label's threshold is its mean probability on rows that have
    it; a row is suspect where another label's probability is above that label's threshold, and the highest. Thresholds
    come from held-out rows. Training rows are included; a network that memorised them hides their wrong labels.

    Args:
        rows: row numbers, from 1.
        parts: "train", "validation" or "test" for each row.
        truth: label indices, (rows,).
        probabilities: (rows, labels).
    """
    own = probabilities[np.arange(len(truth)), truth]
    held_out = parts != "train"
    reliable = held_out if held_out.sum() >= 10 * len(labels) else np.ones(len(truth), bool)
    thresholds = np.ones(len(labels))
    for index in range(len(labels)):
        labelled = reliable & (truth == index)
        if labelled.any():
            thresholds[index] = float(probabilities[labelled, index].mean())
    confident = probabilities >= thresholds
    others = np.where(confident, probabilities, -1.0)
    others[np.arange(len(truth)), truth] = -1.0
    best = others.argmax(1)
    margin = others[np.arange(len(truth)), best] - own
    suspect = np.flatnonzero((others.max(1) >= 0) & (margin > 0))
    suspect = suspect[np.argsort(-margin[suspect], kind="stable")]

    def entry(place: int, other: int) -> dict[str, Any]:
        stated = {
            "row": rows[place],
            "part": str(parts[place]),
            "label": labels[truth[place]],
            "probability": own[place],
        }
        return {**stated, "predicted": labels[other], "predicted_probability": probabilities[place, other]}

    hard = np.argsort(own, kind="stable")[:LISTED]
    return finite_json(
        {
            "hardest": [entry(int(place), int(probabilities[place].argmax())) for place in hard],
            "mislabelled": [entry(int(place), int(best[place])) for place in suspect[:LISTED]],
            "mislabelled_rows": len(suspect),
            "rows": len(truth),
            "method": "confident learning (Northcutt et al. 2021)",
        },
        digits=8,
    )


def hardest_numbers(
    rows: NDArray[Any], parts: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> dict[str, Any]:
    """Return the largest residuals of a regression.

    Those beyond `OUTLIER` robust deviations (1.4826 MAD) are suspect.
    """
    residual = predicted.astype(np.float64) - truth
    held_out = parts != "train"
    reliable = residual[held_out] if held_out.sum() >= 20 else residual
    middle = float(np.median(reliable))
    spread = 1.4826 * float(np.median(np.abs(reliable - middle)))
    order = np.argsort(-np.abs(residual), kind="stable")
    outliers = order[np.abs(residual[order] - middle) > OUTLIER * spread] if spread > 0 else order[:0]

    def entry(index: int) -> dict[str, Any]:
        return {
            "row": rows[index],
            "part": str(parts[index]),
            "actual": truth[index],
            "predicted": predicted[index],
            "residual": residual[index],
        }

    return finite_json(
        {
            "hardest": [entry(int(index)) for index in order[:LISTED]],
            "mislabelled": [entry(int(index)) for index in outliers[:LISTED]],
            "mislabelled_rows": len(outliers),
            "rows": len(truth),
            "method": f"residual beyond {OUTLIER:g} robust standard deviations",
        },
        digits=8,
    )
