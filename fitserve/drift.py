"""Drift: how far a model's requests, and its predictions, have moved from its training rows.

Measured by the population stability index, PSI = sum over bins of (a - e) ln(a / e), with `e` the share of the
training rows in a bin and `a` the share of the requested rows (Siddiqi, Credit Risk Scorecards, 2006). Missing values
have a bin of their own, as have values below and above all training rows. By convention, below 0.1 is stable and
above 0.25 is large.

Few training rows differ from others by chance, without any drift: the sum over k bins is then about a chi-squared
variable with k - 1 degrees of freedom, divided by the number of training rows. So half a row is added to each bin of
either side, and what chance gives, up to three standard deviations, is subtracted: 0.9 of 30 training rows, 0.1 of 200,
0.01 of 2,000. Distributions from before they had their number of rows are compared as they are.

A distribution is as `fitserve.encoding.distribution` writes it. Counts are additive: each prediction process counts
its own window, and the sum over processes is the whole service's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fitserve.encoding import FittedColumn
from fitserve.encoding.coercion import label_or_text
from fitserve.encoding.distribution import Distribution, numeric_distribution

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 200_000  # most training rows measured; of more, every n-th is taken
LEAST_ROWS = 200  # with fewer rows, the index measures chance rather than drift
ROWS_A_BIN = 20  # chance alone gives an index of about bins / rows
LARGE = 0.25
RARE = 0.01  # labels with a smaller share of the training rows are counted together
SCORE_EDGES = tuple(step / 10 for step in range(11))
_SMALLEST_SHARE = 1e-4  # an empty bin would make the index infinite

BinCounts = list[int]


# Distributions of training rows


def training_distribution(columns: Iterable[FittedColumn], table: pa.Table) -> dict[str, Distribution]:
    """Return the distributions of raw columns, by name. `table` holds the training rows."""
    if table.num_rows > ROWS:
        table = table.take(np.linspace(0, table.num_rows - 1, ROWS).astype(np.int64))
    return {column.name: column.distribution(table.column(column.name)) for column in columns}


def prediction_distribution(
    outputs: Sequence[Mapping[str, Any]], served: Mapping[str, npt.NDArray[Any]]
) -> dict[str, dict[str, Distribution]]:
    """Return the distributions of predictions for training rows: by target, `classes` and `scores`, or `values`.

    `outputs` are the manifest's entries, `served` arrays (rows, units) by target.
    """
    distributions: dict[str, dict[str, Distribution]] = {}
    for output in outputs:
        labels = [str(label) for label in output.get("labels") or ()]
        parts = prediction_parts(output["task"], labels, served[output["name"]])
        if "values" in parts:
            distributions[output["name"]] = {"values": numeric_distribution(parts["values"])}
        else:
            known = [*labels, "none"] if output["task"] == "multilabel" else labels
            distributions[output["name"]] = {
                "classes": class_distribution(known, parts["classes"]),
                "scores": score_distribution(parts["scores"]),
            }
    return distributions


def prediction_parts(task: str, labels: Sequence[str] | None, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Split an output (rows, units) into the parts to compare: `classes` (labels) and `scores`, or `values`.

    The score is the probability of the predicted class; for a sigmoid of one unit, of the second label.
    """
    if task == "regression" or not labels:
        return {"values": values.mean(axis=1, dtype=np.float64)}
    names = np.array([*labels, "none"], dtype=object)
    if task == "multilabel":
        best = values.argmax(axis=1)
        classes = np.where(values.max(axis=1) > 0.5, best, len(labels))
        return {"classes": names[classes], "scores": values.max(axis=1)}
    if values.shape[1] == 1:
        return {"classes": names[(values[:, 0] > 0.5).astype(np.int64)], "scores": values[:, 0]}
    return {"classes": names[values.argmax(axis=1)], "scores": values.max(axis=1)}


def score_distribution(scores: npt.NDArray[Any]) -> Distribution:
    """Return the distribution of probabilities, in tenths."""
    counts = _count_numbers(SCORE_EDGES, scores)
    rows = max(1, len(scores))
    shares = [count / rows for count in counts[1:-2]]
    missing = counts[-1] / rows
    return {"kind": "numeric", "rows": len(scores), "edges": list(SCORE_EDGES), "shares": shares, "missing": missing}


def class_distribution(labels: Sequence[str], classes: Iterable[Any]) -> Distribution:
    """Return the distribution of predicted classes."""
    frequencies = dict.fromkeys(map(str, labels), 0)
    rows = other = 0
    for name in classes:
        rows += 1
        if name in frequencies:
            frequencies[name] += 1
        else:
            other += 1
    shares = {label: count / max(1, rows) for label, count in frequencies.items()}
    known = {"frequencies": shares, "other": other / max(1, rows), "missing": 0.0}
    return {"kind": "categorical", "rows": rows, **known}


# Bins, and counts in them


def bin_names(distribution: Mapping[str, Any]) -> list[str]:
    """Return the names of the bins, in order: labels and `other`, or `below`, ranges and `above`; then `missing`."""
    if distribution["kind"] == "categorical":
        return [*map(str, distribution["frequencies"]), "other", "missing"]
    edges = distribution["edges"]
    inner = [f"{low:.6g} to {high:.6g}" for low, high in itertools.pairwise(edges)]
    return ["below", *inner, "above", "missing"] if edges else ["missing"]


def training_shares(distribution: Mapping[str, Any]) -> list[float]:
    """Return the training rows' share in each of `bin_names`."""
    if distribution["kind"] == "categorical":
        return [*distribution["frequencies"].values(), distribution["other"], distribution["missing"]]
    if not distribution["edges"]:
        return [distribution["missing"]]
    return [0.0, *distribution["shares"], 0.0, distribution["missing"]]


def count(distribution: Mapping[str, Any], values: Sequence[Any] | npt.NDArray[Any]) -> BinCounts:
    """Count the values in each of `bin_names`: numbers as float64 (rows,), NaN if missing; else labels or texts."""
    if distribution["kind"] == "numeric":
        return _count_numbers(distribution["edges"], np.asarray(values, np.float64))
    labels = [label_or_text(value) for value in values]
    if distribution["kind"] == "text":
        lengths = np.array([np.nan if label is None else len(label) for label in labels], np.float64)
        return _count_numbers(distribution["edges"], lengths)
    bins = {str(label): index for index, label in enumerate(distribution["frequencies"])}
    other = len(bins)
    counts = [0] * (other + 2)
    for label in labels:
        counts[other + 1 if label is None else bins.get(label, other)] += 1
    return counts


def _count_numbers(edges: Sequence[float], numbers: npt.NDArray[Any]) -> BinCounts:
    """Count numbers below the first edge, between edges (a bin holds its lower edge), above the last, and missing."""
    present = numbers[np.isfinite(numbers)]
    missing = len(numbers) - len(present)
    if not len(edges):
        return [len(numbers)]
    bins = max(1, len(edges) - 1)
    places = np.searchsorted(np.asarray(edges[1:-1], np.float64), present, side="right") + 1
    places[present < edges[0]] = 0
    places[present > edges[-1]] = bins + 1
    return [*map(int, np.bincount(places, minlength=bins + 2)), missing]


def add_counts(one: Sequence[int], other: Sequence[int]) -> BinCounts:
    """Add the counts of two windows."""
    return [a + b for a, b in zip(one, other, strict=True)]


# The index


def psi(distribution: Mapping[str, Any], counts: Sequence[int]) -> float | None:
    """Return the population stability index; None if there are too few rows."""
    total = sum(counts)
    shares, bins = _without_rare(distribution)
    if total < max(LEAST_ROWS, ROWS_A_BIN * len(shares)):
        return None
    grouped = np.bincount(bins, np.asarray(counts, np.float64), minlength=len(shares))
    trained_on = distribution.get("rows")
    if not trained_on:
        requested, trained = np.maximum(grouped / total, _SMALLEST_SHARE), np.maximum(shares, _SMALLEST_SHARE)
        return _index(requested, trained)
    half = 0.5 * len(shares)
    requested, trained = (grouped + 0.5) / (total + half), (shares * trained_on + 0.5) / (trained_on + half)
    free = int(np.count_nonzero(grouped + shares)) - 1
    by_chance = (free + 3 * np.sqrt(2 * max(free, 0))) / trained_on
    return max(0.0, _index(requested, trained) - float(by_chance))


def _index(requested: npt.NDArray[Any], trained: npt.NDArray[Any]) -> float:
    return float(np.sum((requested - trained) * np.log(requested / trained)))


def _without_rare(distribution: Mapping[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the shares to compare with rare labels merged into `other`, and the bin in which each is counted."""
    shares = np.asarray(training_shares(distribution), np.float64)
    if distribution["kind"] != "categorical":
        return shares, np.arange(len(shares))
    own = shares >= RARE
    own[-2:] = True  # other and missing
    bins = np.cumsum(own) - 1
    bins[~own] = bins[-2]
    return np.bincount(bins, shares), bins


def report(distribution: Mapping[str, Any], counts: Sequence[int]) -> dict[str, Any]:
    """Return one column's drift as the API shows it: its PSI, missing shares, and both shares of each bin."""
    total = sum(counts)
    shares = [value / total if total else 0.0 for value in counts]
    index = psi(distribution, counts)
    bins = zip(bin_names(distribution), training_shares(distribution), shares, strict=True)
    return {
        "kind": distribution["kind"],
        "rows": total,
        "psi": index,
        "verdict": verdict(index),
        "missing": shares[-1] if total else None,
        "training_missing": distribution["missing"],
        "bins": [{"bin": name, "training": trained, "asked": requested} for name, trained, requested in bins],
    }


def verdict(index: float | None) -> str:
    """Describe the index in one word."""
    if index is None:
        return "too few rows"
    return "stable" if index < 0.1 else "moved" if index < LARGE else "drifted"
