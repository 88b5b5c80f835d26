"""Intervals and prediction sets at any level, by split conformal prediction (Vovk et al. 2005).

An artifact keeps order statistics of the scores of held-out rows. A regression's score is the truth minus the
prediction. A classification's is the total probability of the labels that are likelier than the true one (Romano et
al. 2020, without randomisation, so that equal rows get equal sets and no set is empty). On new rows like the held-out
ones, the bounds cover at least the level's share on average, whatever the network is.

The manifest's entry `conformal` holds for each target `rows`, `ranks` and `scores` (see `kept_scores`), their `source`,
and, where the spec asks for it or the rows allow it:

- `by_row`: `spread`, an estimate of each row's error (see `fitserve.spread`), and order statistics of the scores
  divided by it, from rows that it was not fitted on. A level that these are too few for gets one width for all rows.
- `groups`: for each label of the column `coverage_by`, the order statistics of that group's rows. A group with too few
  rows for a level is answered from all rows together (Mondrian conformal prediction, Vovk et al. 2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitserve.errors import BadInput
from fitserve.spread import Spread

MAX_SCORES = 1_000  # scores kept per target; levels between two of them are rounded outwards
MAX_GROUPS = 50  # groups of `coverage_by`
NO_LEVEL = 0.0  # level of a request that wants no interval, even if the version answers with one by default
MAX_CACHED = 64  # levels whose limits are looked up once
TASKS = ("regression", "binary", "multiclass")

Array = npt.NDArray[Any]


def kept_scores(scores: Array, most: int = MAX_SCORES) -> dict[str, Any]:
    """Return order statistics of scores as JSON: `rows`, and `scores[i]`, the `ranks[i]`-th smallest (from 1)."""
    ordered = np.sort(np.asarray(scores, np.float64))
    rows = len(ordered)
    if rows <= most:
        ranks = np.arange(1, rows + 1)
    else:  # every second one of the kept is near an end, where levels are asked for
        near = np.unique(np.geomspace(1, rows / 2, most // 4).round().astype(int))
        even = np.linspace(1, rows, most // 2).round().astype(int)
        ranks = np.unique(np.concatenate([near, rows + 1 - near, even]))
    return {"rows": rows, "ranks": ranks.tolist(), "scores": ordered[ranks - 1].tolist()}


def read_level(value: Any, pointer: str = "/interval") -> float:
    """Return the level that a request asks for; NO_LEVEL for `false` or the header `none`. Raises BadInput."""
    if value is False or value == "none":
        return NO_LEVEL
    level = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            level = float(value)
        except (ValueError, OverflowError):  # an integer of 400 digits
            level = math.nan
    if not 0 < level < 1:
        raise BadInput(
            "The level of an interval is a share of the rows between 0 and 1.",
            pointer=pointer,
            received=str(value)[:40],
            expected="a number above 0 and below 1, such as 0.9; false for no interval",
        )
    return level


def rows_needed(task: str, level: float) -> int:
    """Return the fewest held-out rows with which a level can be promised."""
    tail = (1 - level) / 2 if task == "regression" else 1 - level
    return math.ceil(1 / tail - 1 - 1e-9)


def highest_level(task: str, rows: int) -> float:
    """Return the highest level that so many held-out rows can promise; 0 where there are none."""
    return max(0.0, 1 - (2 if task == "regression" else 1) / (rows + 1))


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
        """Return values by name, one for each row: a number, or the labels of the set in label order."""
        if self.members is not None:
            chosen = [[one for one, inside in zip(self.labels, row, strict=True) if inside] for row in self.members]
            return {f"{self.output}_set": chosen}
        return {name: values[:, 0].tolist() for name, values in self.named().items()}

    def covers(self, truth: Array) -> npt.NDArray[np.bool_]:
        """Return whether each row's truth is inside, bool (rows,). `truth`: numbers, or places of labels, (rows,)."""
        if self.members is not None:
            return np.asarray(self.members[np.arange(len(truth)), np.asarray(truth, np.int64)], np.bool_)
        assert self.low is not None
        assert self.high is not None
        return np.asarray((self.low[:, 0] <= truth) & (truth <= self.high[:, 0]), np.bool_)

    def sizes(self) -> Array:
        """Return each row's width, or the number of labels in its set, (rows,)."""
        if self.members is not None:
            return np.asarray(self.members.sum(axis=1))
        assert self.low is not None
        assert self.high is not None
        return np.asarray((self.high - self.low)[:, 0])


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What bounds depend on besides the outputs: each row's label in the column `coverage_by`, and the encoded inputs.

    A row without a group is answered from all rows together. `feeds` are needed only where a spread is estimated.
    """

    groups: Sequence[str | None] | None = None
    feeds: Mapping[str, Array] | None = None


NOTHING = RowFacts()


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits of one output at one level, (groups + 1,): the first for all rows, then one for each group.

    For a regression, `low` and `high`, times the row's spread if there is one, are added to the prediction. For a
    classification, the labels whose score is at most `high` are in the set.
    """

    low: Array
    high: Array
    spread: Spread | None
    few: tuple[list[float], list[float]]  # the same two
    labels: tuple[str, ...] = ()


class Conformal:
    """The intervals and sets of one artifact's outputs. May be used from several threads.

    `added` lists the outputs that bounds add: each name with the output that it belongs to.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        scores, asked = manifest.get("conformal") or {}, manifest.get("interval") or {}
        self.outputs = [output for output in manifest["outputs"] if output["task"] in TASKS]
        self.levels: tuple[float, ...] = tuple(asked.get("levels") or ())
        self.coverage_by: str | None = asked.get("coverage_by")
        self.adaptive: Mapping[str, Any] | None = asked.get("adaptive")
        self._scores: Mapping[str, Any] = scores
        self._spreads = {name: Spread(own["by_row"]["spread"]) for name, own in scores.items() if own.get("by_row")}
        self._groups = {
            name: {g: index for index, g in enumerate(own.get("groups") or (), 1)} for name, own in scores.items()
        }
        self.needs_feeds = any(one.needs_feeds for one in self._spreads.values())
        self._limits: dict[tuple[str, float], _Limits] = {}
        names = {output["name"] for output in manifest["outputs"]}
        self.added = [(name, one) for one in self.outputs for name in _added_names(one)]
        self._added_names = [name for name, _ in self.added]
        self._taken = sorted(names & {name for name, _ in self.added})

    @property
    def level(self) -> float | None:
        """The level that answers where a request names none; None: no interval."""
        return self.levels[0] if self.levels else None

    def bounds(
        self, outputs: Mapping[str, Array], level: float, facts: RowFacts = NOTHING, only: str | None = None
    ) -> list[Bounds]:
        """Return the bounds of each output, or of one, at a level. Raises BadInput where it cannot be promised."""
        bounds_by_output = []
        for output in self.outputs:
            if only is not None and output["name"] != only:
                continue
            limits = self._limits.get((output["name"], level)) or self._find_limits(output, level)
            values = np.asarray(outputs[output["name"]], np.float64)
            places = self._places(output["name"], facts) if len(limits.high) > 1 else 0
            if output["task"] == "regression":
                bounds_by_output.append(_interval(output["name"], limits, values, places, facts))
            else:
                bounds_by_output.append(_set(output, limits, values, places))
        if self._taken and only is None:
            raise BadInput(
                f"An output of the model is called {self._taken[0]!r} already, as a bound would be.",
                pointer="/interval",
                received=level,
                fix="Train it with another name for that target.",
            )
        if not bounds_by_output:
            raise BadInput(
                "The model has no output with an interval or a set: each of its labels is a probability by itself.",
                pointer="/interval",
                received=level,
                fix="Leave interval out.",
            )
        return bounds_by_output

    def few_rows(
        self, level: float, values: list[list[float]], groups: Sequence[str | None] | None, feeds: Mapping[str, Array]
    ) -> list[dict[str, Any]]:
        """Return the values and bounds of each row of a one-output model, by name: like `bounds`, faster for few rows.

        Raises BadInput.
        """
        (output,) = self.outputs
        name = output["name"]
        limits = self._limits.get((name, level)) or self._find_limits(output, level)
        if self._taken:
            self.bounds({name: np.array(values)}, level, RowFacts(groups, feeds))  # raises
        if groups is None:
            places = [0] * len(values)
        else:
            known = self._groups[name]
            places = [0 if group is None else known.get(group, 0) for group in groups]
        lows, highs = limits.few
        if output["task"] != "regression":
            (added,) = self._added_names
            likely = _likely_of_two if len(values[0]) == 1 else _likely
            if len(values) == 1:  # most requests
                return [{name: values[0], added: likely(values[0], limits.labels, highs[places[0]] + 1e-9)}]
            return [
                {name: row, added: likely(row, limits.labels, highs[index] + 1e-9)}
                for row, index in zip(values, places, strict=True)
            ]
        low, high = self._added_names
        widths = [1.0] * len(values) if limits.spread is None else limits.spread.of_few(values, feeds)
        if len(values) == 1:  # most requests
            (row,), at, width = values, places[0], widths[0]
            middle = row[len(row) // 2]
            return [{name: row, low: middle + lows[at] * width, high: middle + highs[at] * width}]
        return [
            {name: row, low: row[len(row) // 2] + lows[index] * width, high: row[len(row) // 2] + highs[index] * width}
            for row, index, width in zip(values, places, widths, strict=True)
        ]

    def rows(self, name: str) -> int:
        """Return the held-out rows of an output."""
        return int((self._scores.get(name) or {"rows": 0})["rows"])

    def check(self, name: str, level: float) -> None:
        """Raise BadInput unless an output's bounds can be promised at a level."""
        self._find_limits(next(one for one in self.outputs if one["name"] == name), level)

    def _places(self, name: str, facts: RowFacts) -> Any:
        if facts.groups is None:
            return 0
        known = self._groups[name]
        return np.array([0 if group is None else known.get(group, 0) for group in facts.groups])

    def _find_limits(self, output: Mapping[str, Any], level: float) -> _Limits:
        """Look up the limits of a level. Raises BadInput."""
        name, task = output["name"], output["task"]
        own = self._scores.get(name)
        if own is None:
            raise BadInput(
                f"The model keeps no held-out scores of {name!r}, so its error is not known.",
                pointer="/interval",
                received=level,
                fix="Train it again with rows held out: split: {validation: 0.2}, or an ensemble with folds.",
            )
        needed = rows_needed(task, level)
        if own["rows"] < needed:
            raise BadInput(
                f"The level {level:g} needs {needed} held-out rows; {name!r} has {own['rows']}.",
                pointer="/interval",
                received=level,
                expected=f"a level that {own['rows']} rows can promise",
                fix="Ask for a lower level, or train with more rows held out.",
            )
        by_row = own.get("by_row")
        if by_row is not None and by_row["rows"] < needed:
            by_row = None
        groups = (own.get("groups") or {}).values()
        all_rows = own if by_row is None else by_row
        chosen = [all_rows]
        for group in groups:
            scores = group if by_row is None else group.get("by_row") or all_rows
            chosen.append(scores if scores["rows"] >= needed else all_rows)
        pairs = [_limits_of(scores, task, level) for scores in chosen]
        low, high = [low for low, _ in pairs], [high for _, high in pairs]
        spread = None if by_row is None else self._spreads[name]
        labels = tuple(map(str, output.get("labels") or ()))
        limits = _Limits(np.array(low), np.array(high), spread, (low, high), labels)
        if len(self._limits) >= MAX_CACHED * len(self.outputs):
            self._limits.clear()
        self._limits[name, level] = limits
        return limits


def bounds(
    manifest: Mapping[str, Any], outputs: Mapping[str, Array], level: float, facts: RowFacts = NOTHING
) -> list[Bounds]:
    """Return the bounds of each output of a model at a level. Raises BadInput where it cannot be promised."""
    return Conformal(manifest).bounds(outputs, level, facts)


def _added_names(output: Mapping[str, Any]) -> list[str]:
    ends = ("low", "high") if output["task"] == "regression" else ("set",)
    return [f"{output['name']}_{end}" for end in ends]


def _limits_of(scores: Mapping[str, Any], task: str, level: float) -> tuple[float, float]:
    rows = scores["rows"]
    if task != "regression":
        return 0.0, _at_or_above(scores, math.ceil((rows + 1) * level - 1e-9))
    tail = (1 - level) / 2
    low = _at_or_below(scores, math.floor((rows + 1) * tail + 1e-9))
    return low, _at_or_above(scores, math.ceil((rows + 1) * (1 - tail) - 1e-9))


def _interval(name: str, limits: _Limits, values: Array, places: Any, facts: RowFacts) -> Bounds:
    units = values.shape[1]
    middle = values if units == 1 else values[:, units // 2 : units // 2 + 1]  # the middle quantile
    low, high = limits.low[places], limits.high[places]
    if isinstance(places, np.ndarray):
        low, high = low[:, None], high[:, None]
    if limits.spread is not None:
        spread = limits.spread.of(values, facts.feeds)[:, None]
        low, high = low * spread, high * spread
    return Bounds(name, low=middle + low, high=middle + high)


def _set(output: Mapping[str, Any], limits: _Limits, values: Array, places: Any) -> Bounds:
    shares = np.concatenate([1 - values, values], axis=1) if values.shape[1] == 1 else values
    limit = limits.high[places] + 1e-9
    members = likelier(shares) <= (limit[:, None] if isinstance(places, np.ndarray) else limit)
    return Bounds(output["name"], tuple(map(str, output["labels"])), members=members)


def _likely(row: list[float], labels: Sequence[str], limit: float) -> list[str]:
    """Return the labels in one row's set, in label order: the rule of `likelier`, on plain numbers."""
    before, inside = 0.0, []
    for place in sorted(range(len(row)), key=row.__getitem__, reverse=True):  # stable: ties keep label order
        if before > limit:  # and so it is for all that follow
            break
        inside.append(place)
        before += row[place]
    return [labels[place] for place in sorted(inside)]


def _likely_of_two(row: list[float], labels: Sequence[str], limit: float) -> list[str]:
    """Return the same where the row is the probability of the second of two labels."""
    second = row[0]
    first = 1 - second
    if max(first, second) <= limit:
        return list(labels)
    return [labels[0] if first >= second else labels[1]] if limit >= 0 else []


def likelier(shares: Array) -> Array:
    """Return, for each label of each row, the probability of all labels that are likelier (rows, labels)."""
    order = np.argsort(-shares, axis=1, kind="stable")
    ordered = np.take_along_axis(shares, order, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered
    before[:, 0] = 0.0
    share: Array = np.empty_like(before)
    np.put_along_axis(share, order, before, axis=1)
    return share


def _at_or_above(scores: Mapping[str, Any], rank: int) -> float:
    return float(scores["scores"][int(np.searchsorted(scores["ranks"], min(rank, scores["rows"])))])


def _at_or_below(scores: Mapping[str, Any], rank: int) -> float:
    return float(scores["scores"][int(np.searchsorted(scores["ranks"], max(rank, 1), side="right")) - 1])
