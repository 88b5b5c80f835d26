"""Drift: how far what a model is asked has moved from what it was trained on.

Measured by the population stability index, PSI = sum over bins of (a - e) ln(a / e), with `e` the share of the
training rows in a bin and `a` the share of the asked rows (Siddiqi, Credit Risk Scorecards, 2006). Missing values are
a bin of their own. By custom, under 0.1 nothing has moved, over 0.25 much has.

Counts add up: each prediction process counts its own window, and the sum of the counts is the whole service's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_ROWS = 200  # fewer rows say more about chance than about drift
LARGE = 0.25
_SMALLEST_SHARE = 1e-4  # an empty bin would make the index infinite

Counts = list[int]


def bins_of(distribution: Mapping[str, Any]) -> list[str]:
    """The bins of a column, in order: ranges or labels, then `other` where there are labels, then `missing`."""
    if distribution["kind"] == "categorical":
        return [*map(str, distribution["frequencies"]), "other", "missing"]
    edges = distribution["edges"]
    inner = [f"{low:.6g} to {high:.6g}" for low, high in itertools.pairwise(edges)]
    return [*inner, "missing"]


def expected(distribution: Mapping[str, Any]) -> list[float]:
    """The training rows' share in each of `bins_of`."""
    if distribution["kind"] == "categorical":
        return [*distribution["frequencies"].values(), distribution["other"], distribution["missing"]]
    return [*distribution["shares"], distribution["missing"]]


def count(distribution: Mapping[str, Any], values: Sequence[Any] | npt.NDArray[np.float64]) -> Counts:
    """How many of the raw values fall in each of `bins_of`."""
    if distribution["kind"] == "categorical":
        return _count_labels(distribution, values)
    if distribution["kind"] == "text":
        values = [None if value is None else len(str(value)) for value in values]
    numbers = values if isinstance(values, np.ndarray) else np.array([_number(value) for value in values], np.float64)
    present = numbers[np.isfinite(numbers)]
    missing = len(numbers) - len(present)
    inner = np.asarray(distribution["edges"][1:-1], np.float64)
    bins = max(1, len(distribution["edges"]) - 1)
    if not distribution["edges"]:
        return [missing]
    # A bin holds its lower edge; what lies outside the training range counts in the outermost bins.
    found = np.bincount(np.searchsorted(inner, present, side="right"), minlength=bins)
    return [*map(int, found), missing]


def _count_labels(distribution: Mapping[str, Any], values: Iterable[Any]) -> Counts:
    places = {str(label): at for at, label in enumerate(distribution["frequencies"])}
    other = len(places)
    found = [0] * (other + 2)
    for value in values:
        found[other + 1 if is_missing(value) else places.get(_label(value), other)] += 1
    return found


def _label(value: Any) -> str:
    """As labels are written in a table: a whole number without its `.0`, truth values in small letters."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_missing(value: Any) -> bool:
    """None, NaN and the empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        return float("nan")


def psi(distribution: Mapping[str, Any], counts: Sequence[int]) -> float | None:
    """The population stability index; None where there are too few rows to say."""
    total = sum(counts)
    if total < LEAST_ROWS:
        return None
    asked = np.maximum(np.asarray(counts, np.float64) / total, _SMALLEST_SHARE)
    trained = np.maximum(np.asarray(expected(distribution), np.float64), _SMALLEST_SHARE)
    return float(np.sum((asked - trained) * np.log(asked / trained)))


def added(one: Sequence[int], other: Sequence[int]) -> Counts:
    """Two windows' counts together."""
    return [a + b for a, b in zip(one, other, strict=True)]


def report(distribution: Mapping[str, Any], counts: Sequence[int]) -> dict[str, Any]:
    """One column's drift, for people: its PSI, missing shares, and both shares bin by bin."""
    total = sum(counts)
    shares = [value / total if total else 0.0 for value in counts]
    index = psi(distribution, counts)
    return {
        "kind": distribution["kind"],
        "rows": total,
        "psi": index,
        "verdict": "too few rows"
        if index is None
        else "stable"
        if index < 0.1
        else "moved"
        if index < LARGE
        else "drifted",
        "missing": {"training": distribution["missing"], "asked": shares[-1] if total else None},
        "bins": [
            {"bin": name, "training": trained, "asked": asked}
            for name, trained, asked in zip(bins_of(distribution), expected(distribution), shares, strict=True)
        ],
    }
