"""Intervals and prediction sets at any level, by split conformal prediction (Vovk et al. 2005).

What is kept of the rows that training did not see are order statistics of their scores: of a regression, the truth
minus the prediction; of a classification, the probability of all labels that are likelier than the true one (Romano et
al. 2020, without randomisation, so that equal rows have equal sets, and none is empty). Of `n` new rows like them, a
share of at least the level is covered on average, whatever the network is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitserve.errors import BadInput

MOST_SCORES = 1_000  # kept of a target; those between them are rounded outwards
TASKS = ("regression", "binary", "multiclass")

Array = npt.NDArray[Any]


def kept_scores(scores: Array) -> dict[str, Any]:
    """Return order statistics of scores as JSON: `rows`, and `scores[i]`, the `ranks[i]`-th smallest (from 1)."""
    ordered = np.sort(np.asarray(scores, np.float64))
    rows = len(ordered)
    if rows <= MOST_SCORES:
        ranks = np.arange(1, rows + 1)
    else:  # every second one of the kept is near an end, where levels are asked for
        near = np.unique(np.geomspace(1, rows / 2, MOST_SCORES // 4).round().astype(int))
        even = np.linspace(1, rows, MOST_SCORES // 2).round().astype(int)
        ranks = np.unique(np.concatenate([near, rows + 1 - near, even]))
    return {"rows": rows, "ranks": ranks.tolist(), "scores": ordered[ranks - 1].tolist()}


def read_level(value: Any, pointer: str = "/interval") -> float:
    """Return the level that a request asks for. Raises BadInput."""
    level = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            level = float(value)
        except ValueError:
            level = math.nan
    if not 0 < level < 1:
        raise BadInput(
            "The level of an interval is a share of the rows between 0 and 1.",
            pointer=pointer,
            received=str(value)[:40],
            expected="a number above 0 and below 1, such as 0.9",
        )
    return level


def rows_needed(task: str, level: float) -> int:
    """Return the fewest held-out rows of which a level can be promised."""
    tail = (1 - level) / 2 if task == "regression" else 1 - level
    return math.ceil(1 / tail - 1 - 1e-9)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an output has beside its prediction: `low` and `high` (rows, 1), or `members` (rows, labels), booleans."""

    output: str
    labels: tuple[str, ...] = ()
    low: Array | None = None
    high: Array | None = None
    members: Array | None = None

    def named(self) -> dict[str, Array]:
        """Return its arrays by the names that they have as outputs."""
        if self.members is not None:
            return {f"{self.output}_set": self.members}
        assert self.low is not None
        assert self.high is not None
        return {f"{self.output}_low": self.low, f"{self.output}_high": self.high}

    def listed(self) -> dict[str, list[Any]]:
        """Return by name a value for each row: a number, or the labels of the set, in their own order."""
        if self.members is not None:
            chosen = [[one for one, inside in zip(self.labels, row, strict=True) if inside] for row in self.members]
            return {f"{self.output}_set": chosen}
        return {name: values[:, 0].tolist() for name, values in self.named().items()}


def bounds(manifest: Mapping[str, Any], outputs: Mapping[str, Array], level: float) -> list[Bounds]:
    """Return the bounds of each output of a model at a level. Raises BadInput where it cannot be promised."""
    kept = manifest.get("conformal") or {}
    names = {output["name"] for output in manifest["outputs"]}
    found = []
    for output in manifest["outputs"]:
        name, task = output["name"], output["task"]
        if task not in TASKS:
            continue
        scores = kept.get(name)
        if scores is None:
            raise BadInput(
                f"The model keeps no held-out scores of {name!r}, so its error is not known.",
                pointer="/interval",
                received=level,
                fix="Train it again with rows held out: split: {validation: 0.2}, or an ensemble with folds.",
            )
        needed = rows_needed(task, level)
        if scores["rows"] < needed:
            raise BadInput(
                f"The level {level:g} needs {needed} held-out rows; {name!r} has {scores['rows']}.",
                pointer="/interval",
                received=level,
                expected=f"a level that {scores['rows']} rows can promise",
                fix="Ask for a lower level, or train with more rows held out.",
            )
        values = np.asarray(outputs[name], np.float64)
        if task == "regression":
            found.append(_interval(name, scores, values, level))
        else:
            found.append(_set(output, scores, values, level))
    if taken := names & {name for one in found for name in one.named()}:
        raise BadInput(
            f"An output of the model is called {min(taken)!r} already, as a bound would be.",
            pointer="/interval",
            received=level,
            fix="Train it with another name for that target.",
        )
    if not found:
        raise BadInput(
            "The model has no output with an interval or a set: each of its labels is a probability by itself.",
            pointer="/interval",
            received=level,
            fix="Leave interval out.",
        )
    return found


def _interval(name: str, kept: Mapping[str, Any], values: Array, level: float) -> Bounds:
    rows, tail = kept["rows"], (1 - level) / 2
    middle = values[:, values.shape[1] // 2][:, None]  # of quantiles, the middle one
    low = _at_or_below(kept, math.floor((rows + 1) * tail + 1e-9))
    high = _at_or_above(kept, math.ceil((rows + 1) * (1 - tail) - 1e-9))
    return Bounds(name, low=middle + low, high=middle + high)


def _set(output: Mapping[str, Any], kept: Mapping[str, Any], values: Array, level: float) -> Bounds:
    shares = np.concatenate([1 - values, values], axis=1) if values.shape[1] == 1 else values
    limit = _at_or_above(kept, math.ceil((kept["rows"] + 1) * level - 1e-9))
    return Bounds(output["name"], tuple(map(str, output["labels"])), members=likelier(shares) <= limit + 1e-9)


def likelier(shares: Array) -> Array:
    """Return, for each label of each row, the probability of all labels that are likelier (rows, labels)."""
    order = np.argsort(-shares, axis=1, kind="stable")
    ordered = np.take_along_axis(shares, order, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered
    before[:, 0] = 0.0
    found: Array = np.empty_like(before)
    np.put_along_axis(found, order, before, axis=1)
    return found


def _at_or_above(kept: Mapping[str, Any], rank: int) -> float:
    return float(kept["scores"][int(np.searchsorted(kept["ranks"], min(rank, kept["rows"])))])


def _at_or_below(kept: Mapping[str, Any], rank: int) -> float:
    return float(kept["scores"][int(np.searchsorted(kept["ranks"], max(rank, 1), side="right")) - 1])
