"""Predictions as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


def prediction_columns(output: Mapping[str, Any], values: np.ndarray) -> dict[str, Any]:
    """Return a column for each unit, and the label of a classification; `output` is an entry of a manifest."""
    name, labels, units = f"predicted_{output['name']}", output.get("labels"), values.shape[1]
    if output["task"] == "regression" or not labels:
        return {name if units == 1 else f"{name}_{unit}": values[:, unit].astype(np.float64) for unit in range(units)}
    columns: dict[str, Any] = {}
    if output["task"] != "multilabel":
        best = (values[:, 0] >= 0.5).astype(int) if units == 1 else values.argmax(axis=1)
        columns[name] = pa.array([str(labels[index]) for index in best])
    scored = labels[-1:] if units == 1 and len(labels) == 2 else labels
    for unit, label in enumerate(scored):
        columns[f"{name}_{label}"] = values[:, unit].astype(np.float64)
    return columns


def joined(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Add columns to a table, renamed if it already has columns of these names."""
    for name, values in columns.items():
        unused = name
        while unused in table.column_names:
            unused += "_"
        table = table.append_column(unused, values if isinstance(values, pa.ChunkedArray) else pa.array(values))
    return table
