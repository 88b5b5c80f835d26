"""Held-out rows: truth and predictions for rows that no network saw, as a Parquet file of the artifact.

Decisions are chosen on its part `validation` (of folds: every row, predicted by the member that was held back from it)
and judged on its part `test`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.conformal import Conformal

HELD_OUT_BLOB = "held_out"  # kind of its blob
CHOSEN_ON, JUDGED_ON = "validation", "test"

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows of one part. `truth` and `values` are by target; label places (rows,) or, of several, 0 and 1.

    `values` are what is served: (rows, units), float32. `warned` says which rows have warnings; `distance` is how far
    each is from the training rows in the last hidden layer, `coverage_labels` are its labels in `coverage_by`: None
    where that was not measured. `groups` are those of protected columns: texts, None where the value is missing.
    """

    rows: Array  # numbers in the dataset, from 0
    truth: Mapping[str, Array]
    values: Mapping[str, Array]
    warned: Array | None = None
    distance: Array | None = None
    groups: Mapping[str, Array] = field(default_factory=dict)
    coverage_labels: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class HeldOutParts:
    """The held-out rows by part, and the artifact's prediction sets."""

    parts: Mapping[str, HeldOut] = field(default_factory=dict)
    conformal: Conformal = field(default_factory=lambda: Conformal({"outputs": []}))

    def get(self, part: str) -> HeldOut | None:
        """Return a part; None if it has no rows."""
        return self.parts.get(part)

    def write(self, path: Path) -> None:
        """Write the file."""
        tables = [_table(name, part) for name, part in self.parts.items() if len(part)]
        if tables:
            # Columns that were not measured for a part are null there.
            pq.write_table(pa.concat_tables(tables, promote_options="default"), path)

    @classmethod
    def read(cls, data: bytes, manifest: Mapping[str, Any] | None = None) -> HeldOutParts:
        """Read what `write` wrote; `manifest`, of the same artifact, is needed for prediction sets."""
        table = pq.read_table(io.BytesIO(data))
        names = np.array(table.column("part").to_pylist(), object)
        columns = {name: _array(table.column(name)) for name in table.column_names if name != "part"}
        return cls(
            {name: _part(columns, names == name) for name in dict.fromkeys(names.tolist())},
            Conformal(manifest or {"outputs": []}),
        )


def _table(name: str, part: HeldOut) -> pa.Table:
    columns: dict[str, Any] = {"part": pa.array([name] * len(part)), "row": pa.array(part.rows, pa.int64())}
    for prefix, arrays in (("truth", part.truth), ("values", part.values)):
        for target, array in arrays.items():
            columns[f"{prefix}:{target}"] = _column(np.asarray(array))
    for name_of, own in part.groups.items():
        columns[f"group:{name_of}"] = pa.array(own.tolist(), pa.string())
    for extra, measured in (("warned", part.warned), ("distance", part.distance)):
        if measured is not None:
            columns[extra] = pa.array(measured)
    if part.coverage_labels is not None:
        columns["coverage_label"] = pa.array(part.coverage_labels, pa.string())
    return pa.table(columns)


def _column(array: Array) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _array(column: pa.ChunkedArray) -> Array:
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    flat = column.combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size))


def _part(columns: Mapping[str, Array], own: Array) -> HeldOut:
    def of(prefix: str) -> dict[str, Array]:
        size = len(prefix) + 1
        return {name[size:]: array[own] for name, array in columns.items() if name.startswith(f"{prefix}:")}

    return HeldOut(
        columns["row"][own],
        of("truth"),
        of("values"),
        warned=_measured(columns, "warned", own, np.bool_),
        distance=_measured(columns, "distance", own, np.float64),
        groups=of("group"),
        coverage_labels=columns["coverage_label"][own].tolist() if "coverage_label" in columns else None,
    )


def _measured(columns: Mapping[str, Array], name: str, own: Array, dtype: type) -> Array | None:
    """Return a column's values of a part; None where it was not measured there."""
    values = columns[name][own] if name in columns else np.array([None], object)
    missing = np.array([value is None for value in values]) if values.dtype == object else values != values
    return None if missing.all() else values.astype(dtype)
