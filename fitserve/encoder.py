"""The encoder: raw columns to the network's inputs, fitted on training rows alone and frozen with the artifact.

One definition (`fitserve.encoding`), used in training (`encode`), in the serving path (`encode_rows`, `PlainNumbers`)
and, layer by layer, in the exported Keras model. All write the same numbers to the bit: numbers are computed in
float64 and rounded once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.dataset_facts import DatasetFacts
from fitserve.encoding import FittedColumn, ValueWarning
from fitserve.encoding.coercion import clipped
from fitserve.errors import BadInput, Problem
from fitserve.spec.feature import EncodedInput, Feature, encoded_inputs, resolve_feature

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]]

MOST_PROBLEMS = 20  # shown at once
_FEW_NUMBERS = 64  # up to so many, plain Python is quicker than NumPy
_NUMBER_TYPES = frozenset({float, int})


@dataclass(frozen=True)
class Encoder:
    """`columns` in feature order; `inputs` are the network's, each (rows, *shape)."""

    columns: tuple[FittedColumn, ...]
    inputs: tuple[EncodedInput, ...]

    @classmethod
    def fit(cls, features: Sequence[Feature], table: pa.Table, facts: DatasetFacts) -> Encoder:
        """Learn from `table`, the training rows alone; widths come from `facts`. Raises BadInput, NotFound."""
        offsets: dict[str, int] = {}
        columns = []
        for feature in features:
            known = facts.column(feature.column)
            resolved = resolve_feature(feature, known)
            encoding, target = resolved.encoding, str(resolved.input)
            assert encoding is not None
            column = encoding.column_class(
                name=known.name,
                kind=known.kind,
                raw=encoding.raw(known),
                encoding=encoding,
                input=target,
                offset=offsets.get(target, 0),
                width=encoding.width(known),
                fitted=encoding.fit(table.column(feature.column), known),
                format=known.format,
            )
            columns.append(column)
            offsets[target] = column.offset + column.width
        return cls(tuple(columns), encoded_inputs(features, facts))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `from_json` makes an equal encoder of it."""
        inputs = [{**asdict(one), "shape": list(one.shape)} for one in self.inputs]
        return {"format": 1, "inputs": inputs, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Encoder:
        """Return the encoder that `to_json` wrote. Raises BadInput for an unknown format."""
        if body.get("format") != 1:
            raise BadInput("This encoder's format is not known here.", received=body.get("format"), expected="1")
        inputs = tuple(EncodedInput(**{**one, "shape": tuple(one["shape"])}) for one in body["inputs"])
        return cls(tuple(FittedColumn.from_json(column) for column in body["columns"]), inputs)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The raw columns, in order: what a row given as a list holds."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def plain_numbers(self) -> PlainNumbers | None:
        """The fast path, if all columns are plain numbers of one input."""
        constants = [column.plain_number for column in self.columns]
        if len(self.inputs) != 1 or not constants:
            return None
        plain = [numbers for numbers in constants if numbers is not None]
        return PlainNumbers(self, plain) if len(plain) == len(constants) else None

    def encode(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Encode a table's rows in bulk: arrays by input name. Raises BadInput naming row and column."""
        if missing := [name for name in self.names if name not in table.column_names]:
            raise BadInput(f"The table has no column {missing[0]!r}.", received=table.column_names[:20])
        arrays = self._zeros(table.num_rows)
        for column in self.columns:
            column.encode_column(table.column(column.name), arrays[column.input][:, column.part])
        return arrays

    def encode_rows(self, rows: Rows) -> tuple[dict[str, np.ndarray], list[list[ValueWarning]]]:
        """Encode rows of JSON values, by name or by position: arrays by input name, and each row's warnings.

        Raises BadInput naming row (from 1) and column: up to 20 problems at once.
        """
        plain = self.plain_numbers
        if plain is not None and (encoded := plain.encode_rows(rows)) is not None:
            return {plain.input: encoded}, [[] for _ in rows]
        arrays = self._zeros(len(rows))
        parts = [(column, arrays[column.input], column.part) for column in self.columns]
        warnings: list[list[ValueWarning]] = []
        problems: list[Problem] = []
        for at, row in enumerate(rows):
            of_row: list[ValueWarning] = []
            try:
                for value, (column, array, part) in zip(self.positional(row, at + 1), parts, strict=True):
                    warning = column.encode_value(value, array[at, part], at + 1)
                    if warning is not None:
                        of_row.append(warning)
            except BadInput as error:
                problems.extend(error.problems)
                if len(problems) >= MOST_PROBLEMS:
                    break
            warnings.append(of_row)
        if problems:
            raise BadInput(problems[0].detail, problems=problems[:MOST_PROBLEMS])
        return arrays, warnings

    def _zeros(self, rows: int) -> dict[str, np.ndarray]:
        return {one.name: np.zeros((rows, *one.shape), one.dtype) for one in self.inputs}

    def positional(self, row: Any, number: int) -> Sequence[Any]:
        """Return a row's values in order; a column that a named row leaves out is missing. Raises BadInput."""
        if isinstance(row, Mapping):
            values = [row.get(name) for name in self.names]
            if len(row) > len(self.names) or any(name not in self._known for name in row):
                extra = next(name for name in row if name not in self._known)
                raise _bad_row(number, f"there is no column {clipped(extra)!r}", extra, ", ".join(self.names[:20]))
            return values
        if isinstance(row, (list, tuple)):
            if len(row) != len(self.names):
                raise _bad_row(number, f"it has {len(row)} values", len(row), f"{len(self.names)} values")
            return row
        if len(self.names) == 1:
            return (row,)
        raise _bad_row(number, "it is neither an object nor a list", row, "an object of columns, or a list")

    def typical_row(self, table: pa.Table) -> dict[str, Any]:
        """Return the columns' medians or most frequent values on these rows, as JSON values."""
        return {column.name: column.typical_value(table.column(column.name)) for column in self.columns}

    def baseline_row(self, distributions: Mapping[str, Any]) -> list[Any]:
        """Return the row that Shapley values compare with, given the columns' training distributions."""
        return [column.baseline_value(distributions.get(column.name) or {}) for column in self.columns]


def _bad_row(number: int, what: str, received: Any, expected: str) -> BadInput:
    problem = Problem(f"Row {number}: {what}.", row=number, received=clipped(received), expected=expected)
    return BadInput(problem.detail, problems=[problem])


class PlainNumbers:
    """The fast path of an encoder whose columns are plain numbers of one input.

    It encodes clean rows alone: no value missing, infinite or out of the training range.
    """

    def __init__(self, encoder: Encoder, constants: Sequence[tuple[float, float, float, float]]) -> None:
        self.input = encoder.inputs[0].name
        self.width = encoder.inputs[0].shape[0]
        names = encoder.names
        self._values = operator.itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
        self.constants = tuple(constants)
        self.low, self.high, self.center, self.scale = np.array(constants, np.float64).T
        offsets = [column.offset for column in encoder.columns]
        # Where each number goes; None where it is in order, without indicators between.
        self.places = None if offsets == list(range(self.width)) else np.array(offsets)

    def clean_rows(self, values: np.ndarray) -> np.ndarray:
        """Return whether each row of (rows, columns) is clean: bool (rows,)."""
        return np.asarray(((values >= self.low) & (values <= self.high)).all(axis=1))

    def is_clean(self, values: np.ndarray) -> bool:
        """Return whether `values` have the right number of columns and every row is clean."""
        return values.shape[1:] == self.low.shape and bool(self.clean_rows(values).all())

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Encode clean float64 (rows, columns) as float32 (rows, width)."""
        scaled: np.ndarray = (values - self.center) / self.scale
        if self.places is None:
            return scaled.astype(np.float32)
        out = np.zeros((len(values), self.width), np.float32)
        out[:, self.places] = scaled
        return out

    def encode_few(self, numbers: Sequence[float]) -> np.ndarray | None:
        """Encode the numbers of some rows, one after the other; None where a row is not clean.

        Plain Python is quicker than NumPy's calls up to some dozens of numbers.
        """
        if self.places is not None:
            return None
        encoded: list[float] = []
        add = encoded.append
        of_each = self.constants * (len(numbers) // len(self.constants))
        for value, (low, high, center, scale) in zip(numbers, of_each, strict=True):
            if not low <= value <= high:  # NaN as well
                return None
            add((value - center) / scale)
        return np.array(encoded, np.float32).reshape(-1, self.width)

    def encode_rows(self, rows: Rows) -> np.ndarray | None:
        """Encode rows of JSON values, by name or by position; None where one is not clean, or anything else occurs."""
        count = len(self.constants)
        numbers: list[Any] = []
        for row in rows:
            if type(row) is dict and len(row) == count:
                try:
                    numbers += self._values(row)
                except KeyError:
                    return None
            elif type(row) is list and len(row) == count:
                numbers += row
            else:
                return None
        if not _NUMBER_TYPES.issuperset(map(type, numbers)):
            return None
        if len(numbers) <= _FEW_NUMBERS and self.places is None:
            return self.encode_few(numbers)
        try:
            values = np.array(numbers, np.float64).reshape(-1, count)
        except OverflowError:
            return None
        return self.encode(values) if self.clean_rows(values).all() else None
