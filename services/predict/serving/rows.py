"""Rows as every protocol hands them over, and a network's columns, which turn them into tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fitserve.encoder import Encoder

Array = npt.NDArray[Any]


class Rows:
    """The rows of one request: by name (dicts), by place (lists), or a float64 matrix in the columns' order."""

    __slots__ = ("count", "values")

    def __init__(self, values: list[dict[str, Any]] | list[list[Any]] | Array) -> None:
        self.values = values
        self.count = len(values)


class Columns:
    """The raw columns of a network, in order, and their encoder. `plain_numbers` is its fast path, if any."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.encoder = Encoder.from_json(manifest["encoder"])
        self.fitted = self.encoder.columns
        self.names = self.encoder.names
        self.plain_numbers = self.encoder.plain_numbers
        self.read_numbers = None if self.plain_numbers is None else _number_reader(self.names)
        self.baseline = self.encoder.baseline_row(manifest.get("training_distribution") or {})

    def encode(self, rows: Rows) -> tuple[dict[str, Array], list[list[dict[str, Any]]] | None]:
        """Return tensors by input name, and each row's warnings (None where there are none). Raises BadInput."""
        values = rows.values
        if isinstance(values, np.ndarray):
            plain = self.plain_numbers
            if plain is not None and plain.is_clean(values):
                return {plain.input: plain.encode(values)}, None
            values = values.tolist()
        feeds, warnings = self.encoder.encode_rows(values)
        if not any(warnings):
            return feeds, None
        return feeds, [[warning.to_json() for warning in row] for row in warnings]

    def matrix_of(self, numbers: Sequence[Any]) -> Array:
        """Return what `read_numbers` read as float64 (rows, columns)."""
        if numbers and type(numbers[0]) is not tuple:
            numbers = [msgspec.structs.astuple(row) if type(row) is not tuple else row for row in numbers]
        return np.array(numbers, np.float64)

    def positional(self, rows: Rows) -> list[list[Any]]:
        """Return the rows as lists in the columns' order."""
        listed = rows.values.tolist() if isinstance(rows.values, np.ndarray) else rows.values
        return [[row.get(name) for name in self.names] if isinstance(row, dict) else list(row) for row in listed]


def _number_reader(names: tuple[str, ...]) -> type:
    """Make a type of `{"instances": [...]}` whose rows are numbers by name or by position, none left out."""
    fields = [(f"c{place}", float, msgspec.field(name=name)) for place, name in enumerate(names)]
    by_name = msgspec.defstruct("ByName", fields, forbid_unknown_fields=True, gc=False)
    by_place = tuple.__class_getitem__((float,) * len(names))
    return msgspec.defstruct(
        "Numbers", [("instances", list.__class_getitem__(by_name | by_place))], forbid_unknown_fields=True, gc=False
    )
