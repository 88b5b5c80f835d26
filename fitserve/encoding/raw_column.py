"""One raw column with all its encodings, and the writing of its values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from fitserve.encoding.encoding import FittedColumn, Row, Unusual, ValueWarning, ValueWriter
from fitserve.encoding.number import NumberWriter, NumericColumn, RangedColumn
from fitserve.encoding.row_warnings import joined
from fitserve.errors import BadInput

MAX_KEPT = 64  # whole numbers of a column, whose encodings are kept


def raw_columns(columns: Iterable[FittedColumn]) -> tuple[RawColumn, ...]:
    """Group fitted columns by the raw column that they encode, in order of first occurrence."""
    parts: dict[str, list[FittedColumn]] = {}
    for column in columns:
        parts.setdefault(column.name, []).append(column)
    return tuple(RawColumn(tuple(several)) for several in parts.values())


@dataclass(frozen=True)
class RawColumn:
    """One column of the rows, and all its encodings (`parts`), in feature order."""

    parts: tuple[FittedColumn, ...]

    @property
    def name(self) -> str:
        """The column's name."""
        return self.parts[0].name

    @cached_property
    def leading(self) -> FittedColumn:
        """The part that represents the column if one is enough: the first numeric one, else the first."""
        return next((part for part in self.parts if isinstance(part, NumericColumn)), self.parts[0])

    @cached_property
    def missing(self) -> list[np.ndarray] | None:
        """The constant encoding of a missing value by each part; None if a part refuses it, or no part marks it."""
        written, marked = [], False
        for part in self.parts:
            numbers = np.zeros(part.width, np.float32)
            try:
                marked |= part.encode_value(None, numbers, 1) is None
            except BadInput:
                return None
            written.append(numbers)
        return written if marked else None

    def encode_values(self, values: Sequence[Any], arrays: Mapping[str, np.ndarray]) -> Unusual:
        """Write the JSON values of all rows into the network's inputs, by every encoding."""
        if len(self.parts) == 1:
            (part,) = self.parts
            unusual = part.encode_values(values, arrays[part.input][:, part.part])
        else:
            unusual = joined([part.encode_values(values, arrays[part.input][:, part.part]) for part in self.parts])
        if "missing_value" in unusual.warned and self.missing is not None:
            del unusual.warned["missing_value"]  # no warning if one encoding marks missing values
        return unusual

    def encode_value(
        self, value: Any, arrays: Mapping[str, np.ndarray], index: int, row: int | None = None
    ) -> list[ValueWarning]:
        """Write one JSON value into row `at` of the network's inputs, by every encoding.

        Raises BadInput naming `row` (from 1; by default that of `at`).
        """
        warnings: dict[str, ValueWarning] = {}
        for part in self.parts:
            warning = part.encode_value(value, arrays[part.input][index, part.part], row or index + 1)
            # No warning of a missing value if one encoding marks it.
            if warning is not None and not (warning.code == "missing_value" and self.missing is not None):
                warnings.setdefault(warning.code, warning)
        return list(warnings.values())

    @cached_property
    def plain_range(self) -> tuple[float, float] | None:
        """(min, max) if all encodings accept every number between them without a warning; else None."""
        ranges = [part.plain_range for part in self.parts]
        known = [one for one in ranges if one is not None]
        if len(known) < len(ranges):
            return None
        return max(low for low, _ in known), min(high for _, high in known)

    def number_writers(self) -> list[NumberWriter]:
        """Return, for each encoding, the function that writes a number of `plain_range` into a row of its input."""
        return [part.number_writer() for part in self.parts if isinstance(part, NumericColumn)]

    def writer(self, input: str, dtype: str) -> ValueWriter:
        """Return a function that writes an ordinary value into a row of one network input, by every encoding in it.

        It returns False for a value that needs a warning or is refused; the row is then unusable.
        """
        own = [place for place, part in enumerate(self.parts) if part.input == input]
        parts = [self.parts[place] for place in own]
        write_value = _one_after_the_other([part.value_writer() for part in parts])
        if self.missing is not None:
            blocks: list[Row] = [memoryview(self.missing[place].astype(dtype)) for place in own]  # type: ignore[arg-type]
            write_value = _with_missing(write_value, [part.part for part in parts], blocks)
        numeric = [part for part in parts if isinstance(part, NumericColumn)]
        if len(numeric) < len(parts):
            return write_value
        if self.plain_range is not None:
            places = [part.part for part in numeric]
            return _with_numbers(write_value, *self.plain_range, places, [part.number_writer() for part in numeric])
        if numeric[0].kind == "datetime":
            ranges = [part.usual_range for part in numeric if isinstance(part, RangedColumn)]
            usual = [one for one in ranges if one is not None]
            low, high = max([-math.inf, *(one[0] for one in usual)]), min([math.inf, *(one[1] for one in usual)])
            return _with_times(write_value, numeric[0], low, high, [part.number_writer() for part in numeric])
        return write_value


def _one_after_the_other(writers: Sequence[ValueWriter]) -> ValueWriter:
    if len(writers) == 1:
        return writers[0]

    def write(value: Any, row: Row) -> bool:
        return all(one(value, row) for one in writers)

    return write


def _with_missing(other: ValueWriter, parts: Sequence[slice], blocks: Sequence[Row]) -> ValueWriter:
    """Wrap `other` to handle a marked missing value first, by writing its constant encoding."""
    ((part, block), *more) = zip(parts, blocks, strict=True)

    def write(value: Any, row: Row) -> bool:
        if value is not None:
            return other(value, row)
        row[part] = block
        for own, numbers in more:
            row[own] = numbers
        return True

    return write


def _with_numbers(
    other: ValueWriter, low: float, high: float, parts: Sequence[slice], writers: Sequence[NumberWriter]
) -> ValueWriter:
    """Wrap `other` to handle numbers in the usual range first, `writers[i]` writing `parts[i]` of a row.

    Several encodings side by side are kept for some whole numbers, which often repeat: counts, years, grades.
    """
    first, *more = writers
    second = more[0] if len(more) == 1 else None
    whole = slice(parts[0].start, parts[-1].stop)
    keeps = len(parts) > 1 and all(one.stop == next.start for one, next in pairwise(parts))
    kept: dict[int, Row] = {}

    def write(value: Any, row: Row) -> bool:
        kind = type(value)
        if kind is int:
            if value in kept:
                row[whole] = kept[value]
                return True
            if not low <= value <= high:
                return other(value, row)
            number = float(value)
        elif kind is not float or not low <= value <= high:
            return other(value, row)
        else:
            number = value
        first(number, row)
        if second is not None:  # the usual number of encodings, without a loop
            second(number, row)
        else:
            for one in more:
                one(number, row)
        if keeps and kind is int and len(kept) < MAX_KEPT:
            kept[value] = memoryview(np.array(row[whole]))  # type: ignore[arg-type]
        return True

    return write


def _with_times(
    other: ValueWriter, column: NumericColumn, low: float, high: float, writers: Sequence[NumberWriter]
) -> ValueWriter:
    """Wrap `other` to handle times in the usual range first, parsing each once for all encodings."""
    convert = column.convert

    def write(value: Any, row: Row) -> bool:
        try:
            number = convert(value)
        except (TypeError, ValueError, OverflowError):
            return False
        if not (low <= number <= high and -math.inf < number < math.inf):  # also False for NaN
            return other(value, row)
        for one in writers:
            one(number, row)
        return True

    return write
