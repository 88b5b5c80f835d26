"""Runs of one family compared: did the change help, by more than the noise of seeds?

Runs whose resolved specs differ in seed, restarts and the model's name alone are one group: their trials are the
same experiment under different seeds. A child group is compared with its parent's by Welch's t-test on the scores.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Two-sided 95% points of Student's t by degrees of freedom (1 to 30); 1.96 beyond.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_ASIDE = ("seed", "restarts", "device", "threads")


@dataclass(frozen=True, slots=True)
class Score:
    """What one seed reached: lower is better."""

    seed: int
    value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two groups. `difference` is ours less theirs; `verdict` is better, worse, within noise, or undecided."""

    verdict: str
    difference: float | None
    interval: tuple[float, float] | None
    seeds: tuple[int, int]
    sentence: str


def group_of(resolved: Mapping[str, Any]) -> str:
    """The same for specs that differ in their seed alone."""
    training = {key: value for key, value in resolved["training"].items() if key not in _ASIDE}
    bare = {key: value for key, value in resolved.items() if key not in ("model", "training")}
    return hashlib.sha256(json.dumps({**bare, "training": training}, sort_keys=True).encode()).hexdigest()[:16]


def changes(old: Any, new: Any, pointer: str = "") -> list[dict[str, Any]]:
    """Where two resolved specs differ, as JSON Pointers with both values; seeds left out."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            place = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if (place.startswith("/training/") and key in _ASIDE) or place == "/model":
                continue
            found += changes(old.get(key), new.get(key), place)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [c for i, (a, b) in enumerate(zip(old, new, strict=True)) for c in changes(a, b, f"{pointer}/{i}")]
    return [] if old == new else [{"path": pointer, "from": old, "to": new}]


def compare(parent: Sequence[Score], child: Sequence[Score]) -> Comparison:
    """Did the child's seeds do better than the parent's? Fewer than two seeds on a side leave it undecided."""
    ours, theirs = _distinct(child), _distinct(parent)
    seeds = (len(theirs), len(ours))
    if not ours or not theirs:
        return Comparison("undecided", None, None, seeds, "One side has no result yet.")
    difference = _mean(ours) - _mean(theirs)
    if len(ours) < 2 or len(theirs) < 2:
        sentence = "One seed says nothing about the noise of seeds: train both again with restarts."
        return Comparison("undecided", difference, None, seeds, sentence)
    error = math.sqrt(_variance(ours) / len(ours) + _variance(theirs) / len(theirs))
    half = _t(ours, theirs) * error
    interval = (difference - half, difference + half)
    verdict = "better" if interval[1] < 0 else "worse" if interval[0] > 0 else "within noise"
    words = {"better": "lower", "worse": "higher"}.get(verdict)
    sentence = (
        f"The loss is {words} by {abs(difference):.3g} (95% interval {abs(difference) - half:.3g} to"
        f" {abs(difference) + half:.3g})."
        if words
        else f"The difference of {difference:.3g} lies within the noise of seeds (95% interval ±{half:.3g})."
    )
    return Comparison(verdict, difference, interval, seeds, sentence)


def _distinct(scores: Sequence[Score]) -> list[float]:
    """One value a seed: a run repeated under the same seed tells nothing new."""
    by_seed = {score.seed: score.value for score in scores if math.isfinite(score.value)}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    middle = _mean(values)
    return sum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _t(a: Sequence[float], b: Sequence[float]) -> float:
    """Welch and Satterthwaite's degrees of freedom, rounded down."""
    first, second = _variance(a) / len(a), _variance(b) / len(b)
    if first + second == 0:
        return 0.0
    freedom = (first + second) ** 2 / (first**2 / (len(a) - 1) + second**2 / (len(b) - 1))
    index = int(freedom)
    return 1.96 if index > len(_T) else _T[max(0, index - 1)]
