"""Drift: how far what a model is asked, and what it answers, has moved from its training rows.

Measured by the population stability index, PSI = sum over bins of (a - e) ln(a / e), with `e` the share of the
training rows in a bin and `a` the share of the asked rows (Siddiqi, Credit Risk Scorecards, 2006). Missing values are
a bin of their own, as is what lies below or above all training rows. By custom, under 0.1 nothing has moved, over
0.25 much has.

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
ROWS_A_BIN = 20  # chance alone gives an index of about bins / rows
LARGE = 0.25
RARE = 0.01  # labels with less of the training rows are counted together
SCORE_EDGES = tuple(step / 10 for step in range(11))
_SMALLEST_SHARE = 1e-4  # an empty bin would make the index infinite

Counts = list[int]


def bins_of(distribution: Mapping[str, Any]) -> list[str]:
    """The bins of a column, in order: labels and `other`, or `below`, ranges and `above`; then `missing`."""
    if distribution["kind"] == "categorical":
        return [*map(str, distribution["frequencies"]), "other", "missing"]
    edges = distribution["edges"]
    inner = [f"{low:.6g} to {high:.6g}" for low, high in itertools.pairwise(edges)]
    return ["below", *inner, "above", "missing"] if edges else ["missing"]


def expected(distribution: Mapping[str, Any]) -> list[float]:
    """The training rows' share in each of `bins_of`."""
    if distribution["kind"] == "categorical":
        return [*distribution["frequencies"].values(), distribution["other"], distribution["missing"]]
    if not distribution["edges"]:
        return [distribution["missing"]]
    return [0.0, *distribution["shares"], 0.0, distribution["missing"]]


def count(distribution: Mapping[str, Any], values: Sequence[Any] | npt.NDArray[Any]) -> Counts:
    """How many of the raw values fall in each of `bins_of`."""
    if distribution["kind"] == "categorical":
        return _count_labels(distribution, values)
    if distribution["kind"] == "text":
        values = [None if value is None else len(str(value)) for value in values]
    numbers = values if isinstance(values, np.ndarray) else np.array([_number(value) for value in values], np.float64)
    return count_numbers(distribution["edges"], numbers)


def count_numbers(edges: Sequence[float], numbers: npt.NDArray[Any]) -> Counts:
    """Below the first edge, between the edges (a bin holds its lower edge), above the last, not a number."""
    present = numbers[np.isfinite(numbers)]
    missing = len(numbers) - len(present)
    if not len(edges):
        return [len(numbers)]
    bins = max(1, len(edges) - 1)
    places = np.searchsorted(np.asarray(edges[1:-1], np.float64), present, side="right") + 1
    places[present < edges[0]] = 0
    places[present > edges[-1]] = bins + 1
    return [*map(int, np.bincount(places, minlength=bins + 2)), missing]


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
    shares, places = _grouped(distribution)
    if total < max(LEAST_ROWS, ROWS_A_BIN * len(shares)):
        return None
    grouped = np.bincount(places, np.asarray(counts, np.float64), minlength=len(shares))
    asked = np.maximum(grouped / total, _SMALLEST_SHARE)
    trained = np.maximum(shares, _SMALLEST_SHARE)
    return float(np.sum((asked - trained) * np.log(asked / trained)))


def _grouped(distribution: Mapping[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The shares that are compared, and for each bin the one that it belongs to: rare labels go with `other`."""
    shares = np.asarray(expected(distribution), np.float64)
    if distribution["kind"] != "categorical":
        return shares, np.arange(len(shares))
    own = shares >= RARE
    own[-2:] = True  # other and missing
    places = np.cumsum(own) - 1
    places[~own] = places[-2]
    return np.bincount(places, shares), places


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
        "verdict": verdict(index),
        "missing": shares[-1] if total else None,
        "training_missing": distribution["missing"],
        "bins": [
            {"bin": name, "training": trained, "asked": asked}
            for name, trained, asked in zip(bins_of(distribution), expected(distribution), shares, strict=True)
        ],
    }


def verdict(index: float | None) -> str:
    """The index in a word."""
    if index is None:
        return "too few rows"
    return "stable" if index < 0.1 else "moved" if index < LARGE else "drifted"


# What a network answers


def answers(task: str, labels: Sequence[str] | None, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """An output's values (rows, units) as what is compared: `classes` (labels) and `scores`, or `values`.

    The score is the probability of the class that was answered; for a sigmoid of one unit, of the second label.
    """
    if task == "regression" or not labels:
        return {"values": values.mean(axis=1, dtype=np.float64)}
    named = np.array([*labels, "none"], dtype=object)
    if task == "multilabel":
        best = values.argmax(axis=1)
        places = np.where(values.max(axis=1) > 0.5, best, len(labels))
        return {"classes": named[places], "scores": values.max(axis=1)}
    if values.shape[1] == 1:
        return {"classes": named[(values[:, 0] > 0.5).astype(np.int64)], "scores": values[:, 0]}
    return {"classes": named[values.argmax(axis=1)], "scores": values.max(axis=1)}


def scores(values: npt.NDArray[Any]) -> dict[str, Any]:
    """The distribution of probabilities, in tenths."""
    counts = count_numbers(SCORE_EDGES, values)
    rows = max(1, len(values))
    shares = [found / rows for found in counts[1:-2]]
    return {"kind": "numeric", "edges": list(SCORE_EDGES), "shares": shares, "missing": counts[-1] / rows}


def classes(labels: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """The distribution of answered classes."""
    frequencies = dict.fromkeys(map(str, labels), 0)
    rows = other = 0
    for value in values:
        rows += 1
        if value in frequencies:
            frequencies[value] += 1
        else:
            other += 1
    shares = {label: found / max(1, rows) for label, found in frequencies.items()}
    return {"kind": "categorical", "frequencies": shares, "other": other / max(1, rows), "missing": 0.0}
