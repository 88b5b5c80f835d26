"""Why rows get no label: what the decision in force abstains for, and what is known about the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Reason = Literal["unlike_training", "distance", "prediction_set"]


def abstentions(
    limits: Mapping[str, Any],
    rows: int,
    *,
    set_sizes: npt.NDArray[Any] | None = None,
    distances: npt.NDArray[Any] | None = None,
    warned: Iterable[Any] | None = None,
) -> list[Reason | None]:
    """Return for each row the first reason that holds, in the order of `Reason`; None where it is answered.

    `limits` are a decision's `abstain`. `set_sizes` are labels in the prediction set at its level; `warned` is what is
    true of rows that have a value unlike those of training. What is None was not looked at.
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
