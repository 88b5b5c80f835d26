"""Distributions of the training rows, to which `fitserve.drift` compares requests.

numeric     `edges` of (at most) ten bins of equal shares (few values: a bin for each), `shares` of the rows between
            them, min, max, mean, std
categorical `frequencies` of the labels (the 100 most frequent), `other`
text        as numeric, of the numbers of characters
Each with the number of `rows` and the share of `missing` ones; all shares are of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 10
LABELS = 100

Distribution = dict[str, Any]


def label_distribution(codes: np.ndarray, labels: Sequence[str]) -> Distribution:
    """Return the distribution of labels, given as codes (rows,) into them, -1 where missing."""
    counts = np.bincount(codes[codes >= 0], minlength=len(labels))
    rows = max(1, len(codes))
    order = np.argsort(-counts, kind="stable")[:LABELS]
    return {
        "kind": "categorical",
        "rows": len(codes),
        "missing": float((codes < 0).sum() / rows),
        "frequencies": {labels[index]: float(counts[index] / rows) for index in order},
        "other": float((counts.sum() - counts[order].sum()) / rows),
    }


def numeric_distribution(values: np.ndarray, kind: str = "numeric") -> Distribution:
    """Return the distribution of float64 values (rows,); those that are not finite are missing."""
    present = values[np.isfinite(values)]
    rows = max(1, len(values))
    missing = float((len(values) - len(present)) / rows)
    distribution: Distribution = {"kind": kind, "rows": len(values), "missing": missing}
    if not len(present):
        return {**distribution, "edges": [], "shares": []}
    edges = _edges(present)
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0]])
        shares = np.array([len(present)])
    else:
        shares = np.histogram(present, edges)[0]
    return {
        **distribution,
        "edges": [float(edge) for edge in edges],
        "shares": [float(count / rows) for count in shares],
        "min": float(present.min()),
        "max": float(present.max()),
        "mean": float(present.mean()),
        "std": float(present.std()),
        "median": float(np.quantile(present, 0.5, method="lower")),  # a number that occurs in the rows
    }


def _edges(present: np.ndarray) -> np.ndarray:
    values = np.unique(present)
    if 1 < len(values) <= BINS:  # few values get a bin each: between quantiles, 0 and 1 could share one
        return np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, values[-1:]])
    return np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)))
