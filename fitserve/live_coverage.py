"""Score intervals, sets and probabilities against ground truth, row by row, and adapt the level to it.

A stored prediction keeps its bounds as JSON: by target `levels`, and `low` and `high` or `sets` (labels), with a value
for each row; and `slices`, the rows' labels in the column `coverage_by`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from fitserve.conformal import Bounds, Conformal, highest_level

BINS = 10  # bins of confidence for the calibration error
SMALLEST = 1e-15  # least probability in a log loss
LOWEST_LEVEL = 0.01
FEWEST_ROWS = 20  # least rows of a slice that is tested
SIGNIFICANCE = 0.05  # error probability over all slices together


def stored_bounds(
    bounds: Sequence[Bounds], levels: Mapping[str, float], slices: Sequence[str | None] | None
) -> dict[str, Any]:
    """Return the bounds that a prediction stores beside its outputs."""
    stored: dict[str, Any] = {"levels": dict(levels)}
    for one in bounds:
        listed = one.listed()
        if one.members is not None:
            stored.setdefault("sets", {})[one.output] = listed[f"{one.output}_set"]
        else:
            for end in ("low", "high"):
                stored.setdefault(end, {})[one.output] = listed[f"{one.output}_{end}"]
    if slices is not None:
        stored["slices"] = [None if one is None else one[:200] for one in slices]
    return stored


def coverage_of(stored: Mapping[str, Any] | None, output: str, row: int, truth: Any) -> dict[str, Any]:
    """Return `level`, `covered` and `slice` of one row, each None if unknown; `truth` is a number or a label."""
    coverage: dict[str, Any] = {"level": None, "covered": None, "slice": None}
    if stored is None:
        return coverage
    if "slices" in stored:
        coverage["slice"] = stored["slices"][row]
    level = stored.get("levels", {}).get(output)
    if level is None:
        return coverage
    if output in stored.get("sets", {}):
        covered = truth in stored["sets"][output][row]
    elif output in stored.get("low", {}):
        covered = stored["low"][output][row] <= truth <= stored["high"][output][row]
    else:
        return coverage
    return coverage | {"level": level, "covered": bool(covered)}


def calibration_of(shares: Sequence[float], place: int) -> dict[str, Any]:
    """Return what one row says of its probabilities: `shares` of all labels, of which the one at `place` is true."""
    likeliest = max(range(len(shares)), key=shares.__getitem__)
    confidence = min(1.0, max(0.0, shares[likeliest]))
    squares = sum((share - (index == place)) ** 2 for index, share in enumerate(shares))
    return {
        "confidence": confidence,
        "confidence_bin": min(BINS - 1, int(confidence * BINS)),
        "likeliest_right": likeliest == place,
        "brier": squares / (2 if len(shares) == 2 else 1),
        "log_loss": -math.log(max(SMALLEST, min(1.0, shares[place]))),
    }


def moved(error_rate: float, asked: float, gamma: float, covered: int, missed: int) -> float:
    """Return the new target error rate after counts of truths inside and outside (Gibbs and Candes 2021).

    `asked` is the error rate of the spec. The rate stays between 0 and 1.
    """
    return min(1.0, max(0.0, error_rate + gamma * (asked * (covered + missed) - missed)))


def level_at(error_rate: float, task: str, rows: int) -> float:
    """Return the level for an error rate, limited to what the held-out rows can guarantee."""
    return min(max(LOWEST_LEVEL, 1.0 - error_rate), highest_level(task, rows))


def moved_levels(conformal: Conformal, error_rates: Mapping[str, float]) -> dict[str, float]:
    """Return the levels that replace the spec's, by output; empty for a version that is not adaptive."""
    if conformal.adaptive is None or conformal.level is None:
        return {}
    tasks = {one["name"]: one["task"] for one in conformal.outputs}
    return {
        name: level_at(rate, tasks[name], conformal.rows(name)) for name, rate in error_rates.items() if name in tasks
    }


def worse_than(expected: float, hits: int, rows: int, tests: int) -> bool:
    """Return whether hits are significantly fewer than a share implies, corrected for `tests` tests."""
    if rows < FEWEST_ROWS:
        return False
    z = NormalDist().inv_cdf(1 - SIGNIFICANCE / max(1, tests))
    share, slack = hits / rows, z * z / rows
    upper = (share + slack / 2 + z * math.sqrt(share * (1 - share) / rows + slack / rows / 4)) / (1 + slack)
    return upper < expected
