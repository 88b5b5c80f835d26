"""A model's raw columns, and a request's rows in these columns."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fitserve.encoder import FEW_ROWS, Encoder
from fitserve.encoding.coercion import group_labels
from fitserve.encoding.number import NumericColumn
from fitserve.encoding.raw_column import RawColumn
from fitserve.encoding.row_warnings import RowWarnings
from services.predict.catalog.row_bodies import RowsReader, numbers_reader

Array = npt.NDArray[Any]


class InputRows:
    """The rows of one request: by name (dicts), by position (lists), or a float64 matrix in the columns' order.

    `columns` holds the same values by column, if known, and `names` names these columns. A numeric column may be
    float64, NaN where missing. `left_out` counts, by column, the values of table columns that are not inputs of the
    model.
    """

    __slots__ = ("_values", "columns", "count", "left_out", "names")

    def __init__(
        self,
        values: list[dict[str, Any]] | list[list[Any]] | list[tuple[Any, ...]] | Array,
        left_out: dict[str, int] | None = None,
    ) -> None:
        self._values: Any = values
        self.count = len(values)
        self.left_out = left_out or {}
        self.columns: list[Sequence[Any]] | None = None
        self.names: tuple[str, ...] = ()

    @classmethod
    def by_column(
        cls, names: tuple[str, ...], columns: list[Sequence[Any]], left_out: dict[str, int] | None = None
    ) -> InputRows:
        """Build rows from columns, at least one."""
        self = cls(columns[0], left_out)  # type: ignore[arg-type]
        self._values, self.columns, self.names = None, columns, names
        return self

    @classmethod
    def joined(cls, parts: Sequence[InputRows]) -> InputRows:
        """Return the rows of several parts of one request, one after the other."""
        if all(part.columns is not None for part in parts):
            by_part = zip(*(part.columns or [] for part in parts), strict=True)
            return cls.by_column(parts[0].names, list(map(_concatenated, by_part)))
        if all(isinstance(part.values, np.ndarray) for part in parts):
            return cls(np.concatenate([part.values for part in parts]))
        return cls([row for part in parts for row in _listed_rows(part.values)])

    @property
    def values(self) -> Any:
        """The rows, each by name or by position, or the matrix."""
        if self._values is None:
            assert self.columns is not None
            self._values = list(zip(*map(_listed, self.columns), strict=True))
        return self._values

    def sampled(self, step: int) -> Any:
        """Return every `step`-th of `values`."""
        if self._values is None and self.columns is not None:
            return list(zip(*(_listed(column[::step]) for column in self.columns), strict=True))
        return self.values[::step]


def _listed(column: Sequence[Any]) -> Sequence[Any]:
    """Return a column's JSON values."""
    if not isinstance(column, np.ndarray):
        return column
    values: list[Any] = column.tolist()
    return [None if value != value else value for value in values] if np.isnan(column).any() else values


def _listed_rows(values: Any) -> list[Any]:
    listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return listed


def _concatenated(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return list(itertools.chain.from_iterable(columns))


class Columns:
    """A model's raw columns, in order, and their encoder; `plain_numbers` encodes matrices, if the encoder can."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.encoder = Encoder.from_json(manifest["encoder"])
        self.fitted = self.encoder.leading
        self.names = self.encoder.names
        self.known = frozenset(self.names)
        self._pack_floats = struct.Struct(f"{len(self.names)}d").pack
        self._pack_integers = struct.Struct(f"{len(self.names)}q").pack
        self.table = tuple(manifest.get("table_columns") or ())  # all columns of the training table, in its order
        self.csv: Mapping[str, str] = manifest.get("table_csv") or {}  # signs of the training table's file
        targets = (name for one in (manifest.get("targets") or {}).get("targets", ()) for name in one["columns"])
        # A column without a name is the index that pandas and R write, or what follows a delimiter at a line's end.
        self.others = frozenset((*self.table, *targets, *("",)[: len(self.table)])) - self.known
        self.plain_numbers = self.encoder.plain_numbers
        self.read_numbers = None if self.plain_numbers is None else numbers_reader(self.names)
        # Groups of `coverage_by` are named by the text of their values, so integers must not become floats.
        spelled = (manifest.get("interval") or {}).get("coverage_by")
        self.numeric = [_is_numeric(column) and column.name != spelled for column in self.encoder.raw_columns]
        self.baseline = self.encoder.baseline_row(manifest.get("training_distribution") or {})

    def encode(self, rows: InputRows) -> tuple[dict[str, Array], RowWarnings | None]:
        """Return tensors by input name, and the rows' warnings (None if there are none). Raises BadInput."""
        if rows.columns is not None and rows.count >= FEW_ROWS:
            feeds, warnings = self.encoder.encode_columns(rows.columns)
        elif isinstance(rows.values, np.ndarray):
            feeds, warnings = self._encode_matrix(rows.values)
        else:
            feeds, warnings = self.encoder.encode_rows(rows.values)
        return feeds, warnings if warnings.codes else None

    def _encode_matrix(self, values: Array) -> tuple[dict[str, Array], RowWarnings]:
        plain = self.plain_numbers
        if plain is not None and values.shape[1:] == plain.low.shape and np.isfinite(values).all():
            encoded = plain.encode(values)
            if encoded is not None:
                return {plain.input: encoded}, plain.warnings(values)
        if values.ndim == 2 and values.shape[1] == len(self.names) and len(values) >= FEW_ROWS:
            return self.encoder.encode_columns(list(values.T))
        return self.encoder.encode_rows(values.tolist())

    def input_named(self, name: str) -> str | None:
        """Return the input column that a request names, ignoring surrounding blanks; None for an unused column.

        Raises KeyError if neither the model nor its training table has such a column.
        """
        for known in (name, name.strip()):
            if known in self.known:
                return known
            if known in self.others:
                return None
        raise KeyError(name)

    def without_unused_columns(self, rows: InputRows) -> InputRows:
        """Return the rows without columns that the training table has but the model does not use.

        Unknown columns stay: the encoder refuses them with an error.
        """
        if rows.columns is not None:
            if rows.names == self.names:
                return rows
            # Rows of another version that this one shadows.
            rows = InputRows([dict(zip(rows.names, row, strict=True)) for row in rows.values])
        if isinstance(rows.values, np.ndarray) or not self.others:
            return rows
        if rows.count >= FEW_ROWS and (columns := self.encoder.columns_of(rows.values)) is not None:
            return InputRows.by_column(self.names, columns, rows.left_out)  # every row has these columns and no others
        known, width, whole = self.known, len(self.names), len(self.table)
        left_out = dict(rows.left_out)
        values: list[Any] = list(rows.values)
        for index, row in enumerate(values):
            if type(row) is list and len(row) == whole != width:
                row = dict(zip(self.table, row, strict=True))
            elif type(row) is not dict or row.keys() <= known:
                continue
            values[index] = self._without_others(row, left_out)
        return InputRows(values, left_out)

    def _without_others(self, row: dict[str, Any], left_out: dict[str, int]) -> dict[str, Any]:
        columns = {}
        for name, value in row.items():
            try:
                own = self.input_named(name)
            except KeyError:
                own = name
            if own is None:
                left_out[name] = left_out.get(name, 0) + 1
            elif own == name or own not in row:
                columns[own] = value
        return columns

    def labels_in(self, name: str, rows: InputRows) -> list[str | None]:
        """Return each row's label in a column, named as the groups of `coverage_by`; None where missing."""
        place = self.names.index(name)
        if rows.columns is not None:
            raw: Sequence[Any] = rows.columns[place]
        elif isinstance(rows.values, np.ndarray):
            raw = rows.values[:, place].tolist()
        else:
            raw = [row.get(name) if isinstance(row, dict) else row[place] for row in rows.values]
        return group_labels(raw, self.fitted[place].format)

    @cached_property
    def rows_reader(self) -> RowsReader:
        """The reader of JSON bodies of rows, by column."""
        return RowsReader(self.names, self.numeric)

    def matrix_of(self, numbers: Sequence[Any]) -> Array:
        """Convert the result of `read_numbers` to float64 (rows, columns)."""
        fields = msgspec.structs.astuple
        rows = [row if type(row) is tuple else fields(row) for row in numbers]
        if type(rows[0][0]) is int:
            with contextlib.suppress(struct.error):  # a float of another row, or an integer beyond 64 bits
                integers = b"".join([self._pack_integers(*row) for row in rows])
                return np.frombuffer(integers, np.int64).reshape(len(rows), -1).astype(np.float64)
        floats = b"".join([self._pack_floats(*row) for row in rows])
        return np.frombuffer(floats, np.float64).reshape(len(rows), -1)

    def positional(self, rows: InputRows) -> list[list[Any]]:
        """Return the rows as lists in the columns' order. Raises BadInput."""
        listed = rows.values.tolist() if isinstance(rows.values, np.ndarray) else rows.values
        return [list(self.encoder.positional(row, number)) for number, row in enumerate(listed, 1)]


def _is_numeric(column: RawColumn) -> bool:
    """Return whether all of a column's values are numbers or missing, and none is text."""
    return all(isinstance(part, NumericColumn) and part.kind == "numeric" for part in column.parts)
