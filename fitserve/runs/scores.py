"""A run's scores: the few metrics that lists show and sort by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PARTS = ("test", "validation", "train")  # parts of the rows, in order of preference; the first one with scores counts
_TWINS = {"mean_absolute_error": "mae", "root_mean_squared_error": "rmse", "mean_squared_error": "rmse"}


def scores_of(result: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics on the preferred part of the rows, in the targets' own units, and the training loss.

    With several targets, each metric's name is prefixed with its target's.
    """
    parts = [_mapping((result or {}).get(name)) for name in ("metrics", "evaluation")]
    part = next((part for part in PARTS if any(one.get(part) for one in parts)), None)
    return {} if part is None else _figures_of(result or {}, part)


def scores_by_part(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the same metrics for each part of the rows."""
    return {part: figures for part in reversed(PARTS) if (figures := _figures_of(result, part))}


def _figures_of(result: Mapping[str, Any], part: str) -> dict[str, float]:
    metrics, by_target = (_mapping(_mapping(result.get(name)).get(part)) for name in ("metrics", "evaluation"))
    several = len(by_target) > 1
    own: dict[str, Any] = {}
    # Keras's metrics of a possibly standardised target; the same metric in its own units is also present
    twins: set[str] = set()
    for target, values in by_target.items():
        own |= {f"{target}.{name}" if several else name: value for name, value in _mapping(values).items()}
        twins |= {f"{target}_{name}" if several else name for name, twin in _TWINS.items() if twin in _mapping(values)}
    scores = {**{name: value for name, value in metrics.items() if name not in twins}, **own}
    return {name: float(value) for name, value in scores.items() if _is_figure(value)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
