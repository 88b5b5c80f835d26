"""A run's scores: the few figures that lists show and sort by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PARTS = ("test", "validation", "train")  # of the rows; the first one that a run has counts


def scores_of(result: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the figures on the rows that count, in the targets' own units, and the loss by which it was trained.

    With several targets, each figure's name begins with its target's.
    """
    result = result or {}
    metrics, evaluation = (_mapping(result.get(name)) for name in ("metrics", "evaluation"))
    part = next((part for part in PARTS if metrics.get(part) or evaluation.get(part)), None)
    if part is None:
        return {}
    by_target = _mapping(evaluation.get(part))
    several = len(by_target) > 1
    figures = {
        f"{target}.{name}" if several else name: value
        for target, own in by_target.items()
        for name, value in _mapping(own).items()
    }
    scores = {**_mapping(metrics.get(part)), **figures}
    return {name: float(value) for name, value in scores.items() if _is_figure(value)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
