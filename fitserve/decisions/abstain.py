"""Abstention: the reasons for which a decision in force gives a row no label.

One of them is the row's distance from the training rows, computed here with the graph that
`workers.trainer.export.distance_graph` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnxruntime

DISTANCE_BLOB = "distance"  # kind of the graph's blob
Reason = Literal["unlike_training", "distance", "prediction_set"]


def abstentions(
    limits: Mapping[str, Any],
    rows: int,
    *,
    set_sizes: npt.NDArray[Any] | None = None,
    distances: npt.NDArray[Any] | None = None,
    warned: Iterable[Any] | None = None,
) -> list[Reason | None]:
    """Return, for each row, the first reason that holds in the order of `Reason`; None if the row gets a label.

    `limits` are a decision's `abstain`. `set_sizes` counts the labels in each row's prediction set at the decision's
    level; `warned` marks rows with a value unlike the training rows'. An argument of None is not checked.
    """
    reasons = np.full(rows, None, object)
    if limits.get("prediction_set") is not None and set_sizes is not None:
        reasons[set_sizes != 1] = "prediction_set"
    if limits.get("distance") is not None and distances is not None:
        reasons[distances > limits["distance"]] = "distance"
    if limits.get("unlike_training") and warned is not None:
        reasons[[bool(own) for own in warned]] = "unlike_training"
    reasons_by_row: list[Reason | None] = reasons.tolist()
    return reasons_by_row


def distances(session: onnxruntime.InferenceSession, feeds: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return each row's distance, (rows,): 1 is the distance of a typical training row."""
    inputs = {one.name: feeds[one.name] for one in session.get_inputs()}
    (spread,) = session.run(None, inputs)
    return np.asarray(np.sqrt(np.square(spread, dtype=np.float64).mean(axis=1)))
