"""Warnings of several rows: counted at once by column, formatted only when read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fitserve.encoding.encoding import Unusual, ValueWarning


def joined(several: Sequence[Unusual]) -> Unusual:
    """Combine the warnings and refusals of several encodings; each row counts once per code."""
    joined = Unusual()
    for one in several:
        for code, rows in one.warned.items():
            joined.warned[code] = np.union1d(joined.warned[code], rows) if code in joined.warned else rows
        if one.refused is not None:
            joined.refused = one.refused if joined.refused is None else np.union1d(joined.refused, one.refused)
    return joined


class RowWarnings(Sequence[list[ValueWarning]]):
    """The warnings of each row; counted at once, with texts formatted only when read."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.codes: Counter[str] = Counter()  # number of warnings by code
        self._listed: dict[int, list[ValueWarning]] = {}
        self._columns: list[tuple[int, np.ndarray]] = []  # a column's index, and the rows in which it has warnings
        self._make: Callable[[int, int], list[ValueWarning]] = lambda row, place: []

    @classmethod
    def listed(cls, warnings: Sequence[list[ValueWarning]]) -> RowWarnings:
        """Return the warnings of some rows, one list for each."""
        self = cls(len(warnings))
        self._listed = {row: several for row, several in enumerate(warnings) if several}
        self.codes.update(warning.code for several in self._listed.values() for warning in several)
        return self

    @classmethod
    def by_column(
        cls, rows: int, warned: Sequence[Mapping[str, np.ndarray]], make: Callable[[int, int], list[ValueWarning]]
    ) -> RowWarnings:
        """Return warnings by column (rows by code), and a function that formats those of a row and column."""
        self = cls(rows)
        for place, by_code in enumerate(warned):
            if by_code:
                self.codes.update({code: len(own) for code, own in by_code.items()})
                several = list(by_code.values())
                warned_rows = several[0] if len(several) == 1 else np.unique(np.concatenate(several))
                self._columns.append((place, warned_rows))
        self._make = make
        return self

    @property
    def total(self) -> int:
        """How many warnings there are."""
        return self.codes.total()

    def warned_rows(self) -> np.ndarray:
        """Return the rows with a warning, ascending."""
        rows = [rows for _, rows in self._columns]
        return np.unique(np.concatenate(rows)) if rows else np.array(sorted(self._listed), np.int64)

    def first(self, most: int) -> Iterator[tuple[int, ValueWarning]]:
        """Yield the first warnings, each with its row (from 0)."""
        each = ((int(row), warning) for row in self.warned_rows() for warning in self[int(row)])
        return itertools.islice(each, most)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(self._rows))]
        row = range(self._rows)[row]
        if self._columns:
            places = [place for place, rows in self._columns if _holds(rows, row)]
            return [warning for place in places for warning in self._make(row, place)]
        return self._listed.get(row, [])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _holds(rising: np.ndarray, row: int) -> bool:
    at = int(np.searchsorted(rising, row))
    return at < len(rising) and bool(rising[at] == row)
