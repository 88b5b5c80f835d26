"""Values of a table that no run can train on: infinite ones, and missing ones of a target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.encoding.coercion import labels_of, numbers_of


def unusable(column: pa.ChunkedArray, is_target: bool) -> np.ndarray:
    """Return a mask (bool, (rows,)) of values that are infinite or, in a target, missing."""
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        values = numbers_of(column)
        return np.asarray(~np.isfinite(values) if is_target else np.isinf(values))
    if not is_target:
        return np.zeros(len(column), bool)
    return np.asarray(labels_of(column)[0] < 0)


def unusable_row_numbers(path: Path, column: str, is_target: bool) -> list[int]:
    """Return the row numbers (from 1) of unusable values in a Parquet file."""
    values = pq.read_table(path, columns=[column]).column(column)
    return [int(row) + 1 for row in np.flatnonzero(unusable(values, is_target))]
