"""A plan for encoding single rows: for each column a small function with its constants, built once per model.

Rows of ordinary values are written here, in plain Python on memory views, which for one row is several times as fast as
NumPy. All other rows are left to `FittedColumn.encode_value`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fitserve.encoding.encoding import Row, ValueWriter
from fitserve.encoding.raw_column import RawColumn

RowViews = list[Row]  # for one row: the row of an input that each step of the plan writes into


class RowPlan:
    """The plan of an encoder. `dtypes` are the inputs' by name, in the order of the arrays."""

    def __init__(self, columns: Sequence[RawColumn], dtypes: dict[str, str]) -> None:
        self.names = tuple(column.name for column in columns)
        inputs = list(dtypes)
        steps = [
            (place, inputs.index(name), column.writer(name, dtypes[name]))
            for place, column in enumerate(columns)
            for name in dict.fromkeys(part.input for part in column.parts)
        ]
        self._writers: tuple[ValueWriter, ...] = tuple(write for _, _, write in steps)
        self._inputs = [index for _, index, _ in steps]
        places = [place for place, _, _ in steps]
        self._repeated = None if places == list(range(len(columns))) else _getter(places)
        self._by_name, self._count = _getter(self.names), len(self.names)

    def views_of_rows(self, arrays: Sequence[np.ndarray]) -> list[RowViews]:
        """Return, for each row of the inputs (each (rows, *shape)), the target for `write`."""
        views = [rows_of(array) for array in arrays]
        return [[row[index] for index in self._inputs] for row in zip(*views, strict=True)]

    def write(self, row: Any, target: RowViews) -> bool:
        """Write a row, named or positional, into zeros.

        Returns False if a value needs a warning or is refused, or if the row has other columns; the zeros are then
        overwritten and unusable.
        """
        if type(row) is dict:
            if len(row) != self._count:
                return False
            try:
                row = self._by_name(row)
            except KeyError:
                return False
        elif (type(row) is not list and type(row) is not tuple) or len(row) != self._count:
            return False
        if self._repeated is not None:
            row = self._repeated(row)
        return all(map(operator.call, self._writers, row, target))  # a loop in C; all three have the same length


def rows_of(array: np.ndarray) -> list[Row]:
    """Return a view of each row of an input's array (rows, *shape), contiguous."""
    flat: Row = memoryview(array.reshape(-1))  # type: ignore[arg-type]
    width = array[0].size
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _getter(keys: Sequence[Any]) -> Callable[[Any], Sequence[Any]]:
    if len(keys) == 1:
        (key,) = keys
        return lambda row: (row[key],)
    return operator.itemgetter(*keys)
