"""`boolean`: a truth value."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.coercion import Column, as_boolean, labels_of
from fitserve.encoding.encoding import FittedColumn, Indicator, Row, ValueWriter
from fitserve.encoding.number import NumericColumn, NumericEncoding


class BooleanColumn(NumericColumn):
    """0, 1, or NaN where missing. `fitted` holds the dataset's own spellings of `false` and `true`."""

    def convert(self, value: Any) -> float:
        return as_boolean(value, self.fitted["true"], self.fitted["false"], self.format)

    def numbers(self, column: Column) -> np.ndarray:
        codes, labels = labels_of(column)
        of_label = np.array([*(self.read_number(label, None) for label in labels), np.nan])
        return np.asarray(of_label[codes])

    def write_number(self, number: float, out: np.ndarray) -> None:
        out[0] = number

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        out[:, 0] = np.where(missing, 0.0, numbers)

    def value_writer(self) -> ValueWriter:
        at, other, known = self.offset, super().value_writer(), self._known_values()

        def write(value: Any, row: Row) -> bool:
            kind = type(value)
            number = known[kind].get(value) if kind in known else None
            if number is None:
                return other(value, row)
            row[at] = number
            return True

        return write

    def _known_values(self) -> dict[type, dict[Any, float]]:
        """Return the usual spellings by type, with their numbers."""
        known: dict[type, dict[Any, float]] = {bool: {}, int: {}, float: {}, str: {}}
        for value in (True, False, 0, 1, 0.0, 1.0, self.fitted["true"], self.fitted["false"]):
            with contextlib.suppress(TypeError):
                number = self.convert(value)
                if number == number:
                    known[type(value)][value] = number
        return known

    @property
    def datatype(self) -> Literal["BOOL", "FP64", "BYTES"]:
        return "BOOL"

    typical_value = FittedColumn.typical_value

    def baseline_value(self, distribution: Mapping[str, Any]) -> Any:
        return super().baseline_value(distribution) or False  # without frequencies, an empty text

    def axis_values(self, steps: int, low: float | None, high: float | None) -> Sequence[Any]:
        return [self.fitted["false"], self.fitted["true"]]


class Boolean(NumericEncoding):
    """0 or 1; a missing value is 0."""

    kinds = ("boolean",)
    column_class = BooleanColumn
    in_onnx = in_code = True

    type: Literal["boolean"] = "boolean"
    missing: Literal["zero", "refuse"] = "zero"
    indicator: Indicator = None

    def raw(self, facts: ColumnFacts) -> Literal["number", "string"]:
        return "string" if facts.storage == "string" else "number"

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        false, true = facts.labels if facts.labels and len(facts.labels) == 2 else ("false", "true")
        return {"false": false, "true": true}
