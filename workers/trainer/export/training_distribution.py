"""How the training rows were distributed: what drift is measured against, and what ranges are warned by.

numeric     `edges` of (at most) ten bins of equal shares (few values: a bin for each), `shares` of the rows between
            them, min, max, mean, std
categorical `frequencies` of the labels (the 100 most frequent), `other`
text        the same of the numbers of characters
Each with the share of `missing` rows, all shares being of the training rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fitserve import drift
from fitserve.encoding.coercion import labels_of, texts_of
from fitserve.encoding.fitted_column import TEXTS, FittedColumn

BINS = 10
LABELS = 100
ROWS = 200_000  # of more rows, every n-th is looked at


def training_distribution(columns: Iterable[FittedColumn], table: pa.Table) -> dict[str, Any]:
    """By raw column. `table` holds the training rows."""
    if table.num_rows > ROWS:
        table = table.take(np.linspace(0, table.num_rows - 1, ROWS).astype(np.int64))
    return {column.name: _column(column, table.column(column.name)) for column in columns}


def _column(column: FittedColumn, values: pa.ChunkedArray) -> dict[str, Any]:
    if column.raw == "number":
        return {"kind": "numeric", **_numbers(column.column_numbers(values))}
    if column.type in TEXTS:
        lengths = np.array([np.nan if text is None else len(text) for text in texts_of(values)], np.float64)
        return {"kind": "text", **_numbers(lengths)}
    codes, labels = labels_of(values)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels))
    rows = max(1, len(codes))
    order = np.argsort(-counts, kind="stable")[:LABELS]
    frequencies = {labels[at]: float(counts[at] / rows) for at in order}
    return {
        "kind": "categorical",
        "missing": float((codes < 0).sum() / rows),
        "frequencies": frequencies,
        "other": float((counts.sum() - counts[order].sum()) / rows),
    }


def _numbers(values: np.ndarray) -> dict[str, Any]:
    kept = values[np.isfinite(values)]
    rows = max(1, len(values))
    told: dict[str, Any] = {"missing": float((len(values) - len(kept)) / rows)}
    if not len(kept):
        return {**told, "edges": [], "shares": []}
    edges = _edges(kept)
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0]])
        shares = np.array([len(kept)])
    else:
        shares = np.histogram(kept, edges)[0]
    return {
        **told,
        "edges": [float(edge) for edge in edges],
        "shares": [float(count / rows) for count in shares],
        "min": float(kept.min()),
        "max": float(kept.max()),
        "mean": float(kept.mean()),
        "std": float(kept.std()),
    }


def _edges(kept: np.ndarray) -> np.ndarray:
    values = np.unique(kept)
    if 1 < len(values) <= BINS:  # 0 and 1 would share a bin between their quantiles
        return np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, values[-1:]])
    return np.unique(np.quantile(kept, np.linspace(0, 1, BINS + 1)))


def prediction_distribution(
    outputs: Sequence[Mapping[str, Any]], served: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """By target, what the network answers on training rows: shares of `classes` and `scores`, or of `values`."""
    found: dict[str, dict[str, Any]] = {}
    for output in outputs:
        labels = [str(label) for label in output.get("labels") or ()]
        told = drift.answers(output["task"], labels, served[output["name"]])
        if "values" in told:
            found[output["name"]] = {"values": {"kind": "numeric", **_numbers(told["values"])}}
        else:
            known = [*labels, "none"] if output["task"] == "multilabel" else labels
            found[output["name"]] = {
                "classes": drift.classes(known, told["classes"]),
                "scores": drift.scores(told["scores"]),
            }
    return found
