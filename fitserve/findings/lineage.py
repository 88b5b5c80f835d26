"""Related runs compared: did a change help, by more than the noise of seeds?

Runs whose resolved specs differ only in seed, restarts, device and model name form a group: their trials are the same
experiment under different seeds. A child group is compared with its parent's by Welch's t-test on the scores.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from fitserve.errors import json_pointer

# Two-sided 95% points of Student's t by degrees of freedom (1 to 30); 1.96 beyond.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
# Members of `training` that do not change the experiment.
_IGNORED = ("seed", "restarts", "stacked", "device", "threads")


@dataclass(frozen=True, slots=True)
class SeedScore:
    """The lowest loss reached under one seed."""

    seed: int
    value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A child group against its parent. `difference` is the child's mean less the parent's.

    `verdict` is better, worse, within noise, or undecided; `interval` is the difference's, at 95%; `seeds` counts the
    parent's and the child's.
    """

    verdict: str
    difference: float | None
    interval: tuple[float, float] | None
    seeds: tuple[int, int]
    sentence: str


def group_key(resolved: Mapping[str, Any]) -> str:
    """Return a key that is the same for resolved specs of one group."""
    training = {key: value for key, value in resolved["training"].items() if key not in _IGNORED}
    # A member that an earlier release did not write stands for what it is without: none.
    rest = {key: value for key, value in resolved.items() if key not in ("model", "training") and value is not None}
    return hashlib.sha256(json.dumps({**rest, "training": training}, sort_keys=True).encode()).hexdigest()[:16]


def spec_changes(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> list[dict[str, Any]]:
    """Return where two resolved specs differ, as JSON Pointers with both values; what a group ignores is left out."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        ignored = _IGNORED if path == ("training",) else ("model",) if path == () else ()
        keys = [key for key in {**old, **new} if key not in ignored]
        return [change for key in keys for change in spec_changes(old.get(key), new.get(key), (*path, key))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [change for index, (a, b) in pairs for change in spec_changes(a, b, (*path, index))]
    return [] if old == new else [{"path": json_pointer(path), "from": old, "to": new}]


def compare_scores(parent: Sequence[SeedScore], child: Sequence[SeedScore]) -> Comparison:
    """Compare the losses of a child's seeds with its parent's. Undecided with fewer than two seeds on a side."""
    theirs, ours = _by_seed(parent), _by_seed(child)
    seeds = (len(theirs), len(ours))
    if not ours or not theirs:
        return Comparison("undecided", None, None, seeds, "One side has no result yet.")
    difference = fmean(ours) - fmean(theirs)
    if min(seeds) < 2:
        sentence = "A single seed does not show the noise between seeds: train both again with restarts."
        return Comparison("undecided", difference, None, seeds, sentence)
    half = _half_width(ours, theirs)
    interval = (difference - half, difference + half)
    verdict = "better" if interval[1] < 0 else "worse" if interval[0] > 0 else "within noise"
    if verdict == "within noise":
        sentence = f"The difference of {difference:.3g} is within the noise of seeds (95% interval ±{half:.3g})."
    else:
        word, size = "lower" if difference < 0 else "higher", abs(difference)
        sentence = f"The loss is {word} by {size:.3g} (95% interval {size - half:.3g} to {size + half:.3g})."
    return Comparison(verdict, difference, interval, seeds, sentence)


def _by_seed(scores: Sequence[SeedScore]) -> list[float]:
    """Return one value for each seed: a run repeated under the same seed gives no new information."""
    by_seed = {score.seed: score.value for score in scores if math.isfinite(score.value)}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _half_width(a: Sequence[float], b: Sequence[float]) -> float:
    """Return half of the 95% interval of the difference; Welch-Satterthwaite degrees of freedom, rounded down."""
    first, second = variance(a) / len(a), variance(b) / len(b)
    if first + second == 0:
        return 0.0
    freedom = int((first + second) ** 2 / (first**2 / (len(a) - 1) + second**2 / (len(b) - 1)))
    return math.sqrt(first + second) * (1.96 if freedom > len(_T) else _T[max(0, freedom - 1)])
