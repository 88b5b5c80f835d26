"""The encoder turns raw columns into the network's inputs; fitted on training rows only, frozen in the artifact.

One definition (`fitserve.encoding`), used in training (`encode`), in the serving path (`encode_rows`, `PlainNumbers`)
and, layer by layer, in the exported Keras model. All write the same numbers to the bit: numbers are computed in
float64 and rounded once.

A raw column may have several encodings: each is a `FittedColumn` of its own, and a `RawColumn` holds those of one name.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.dataset_facts import DatasetFacts
from fitserve.encoding import Encoding, FittedColumn, ValueWarning
from fitserve.encoding.boolean import BooleanColumn
from fitserve.encoding.category import MAX_EXACT, CategoryColumn
from fitserve.encoding.encoding import Row
from fitserve.encoding.number import NumberWriter, NumericColumn
from fitserve.encoding.raw_column import RawColumn, raw_columns
from fitserve.encoding.row_plan import RowPlan, rows_of
from fitserve.encoding.row_warnings import RowWarnings
from fitserve.errors import BadInput, Problem
from fitserve.excerpts import excerpt_of_cell
from fitserve.settings import MB
from fitserve.spec.feature import EncodedInput, Feature, each_of, encoded_inputs

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]]

MAX_PROBLEMS = 20  # problems in one error
MANY_BYTES = MB  # bytes of encoded rows from which avoiding a copy pays off
ALIGNMENT = 64  # bytes; TensorFlow uses memory with this alignment without a copy
FEW_ROWS = 16  # with fewer rows, plain Python row by row is faster than NumPy column by column
PLAIN_FOR_EACH_ODD = 16  # least plain columns for each other column, as in tables of pixels
FEW_NUMBERS = 128  # up to this many numbers, plain Python is faster than NumPy
_NUMBER_TYPES = frozenset({float, int})


@dataclass(frozen=True)
class Encoder:
    """A fitted encoder. `columns`: one per encoding, in feature order; `inputs`: the network's, each (rows, *shape)."""

    columns: tuple[FittedColumn, ...]
    inputs: tuple[EncodedInput, ...]

    @classmethod
    def fit(cls, features: Sequence[Feature], table: pa.Table, facts: DatasetFacts) -> Encoder:
        """Learn from `table`, the training rows alone; widths come from `facts`. Raises BadInput, NotFound."""
        offsets: dict[str, int] = {}
        columns = []
        for feature in each_of(features, facts):
            known = facts.column(feature.column)
            encoding, target = feature.encoding, str(feature.input)
            assert isinstance(encoding, Encoding)
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
        # Version 2 stops readers that know only one encoding per column from taking several for different columns.
        version = 1 if len(self.names) == len(self.columns) else 2
        return {"format": version, "inputs": inputs, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Encoder:
        """Return the encoder that `to_json` wrote. Raises BadInput for an unknown format."""
        if body.get("format") not in (1, 2):
            raise BadInput("This encoder's format is not known here.", received=body.get("format"), expected="1 or 2")
        inputs = tuple(EncodedInput(**{**one, "shape": tuple(one["shape"])}) for one in body["inputs"])
        return cls(tuple(FittedColumn.from_json(column) for column in body["columns"]), inputs)

    @cached_property
    def raw_columns(self) -> tuple[RawColumn, ...]:
        """The raw columns with their encodings, in the order in which features first name them."""
        return raw_columns(self.columns)

    @cached_property
    def leading(self) -> tuple[FittedColumn, ...]:
        """For each raw column, the fitted column that represents it."""
        return tuple(column.leading for column in self.raw_columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The raw columns' names, in the order of a row given as a list."""
        return tuple(dict.fromkeys(column.name for column in self.columns))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def plain_numbers(self) -> PlainNumbers | None:
        """The fast encoder for matrices of numbers; None unless nearly all columns are plain numbers of one input."""
        if len(self.inputs) != 1 or self.inputs[0].dtype != "float32" or not self.columns:
            return None
        odd = [column for column in self.raw_columns if column.plain_range is None]
        if len(odd) * PLAIN_FOR_EACH_ODD > len(self.raw_columns) or not all(map(_takes_numbers, odd)):
            return None
        return PlainNumbers(self)

    @cached_property
    def row_plan(self) -> RowPlan:
        """The plan that writes one ordinary row into the inputs."""
        return RowPlan(self.raw_columns, {one.name: one.dtype for one in self.inputs})

    @cached_property
    def _values_of(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        names = self.names
        return operator.itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)

    def encode(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Encode a table's rows in bulk: arrays by input name. Raises BadInput naming row and column."""
        if missing := [name for name in self.names if name not in table.column_names]:
            raise BadInput(f"The table has no column {missing[0]!r}.", received=table.column_names[:20])
        arrays = self._zeros(table.num_rows)
        for column in self.columns:
            column.encode_column(table.column(column.name), arrays[column.input][:, column.part])
        return arrays

    def encode_rows(self, rows: Rows) -> tuple[dict[str, np.ndarray], RowWarnings]:
        """Encode rows of JSON values, by name or by position: arrays by input name, and each row's warnings.

        Raises BadInput naming row (from 1) and column: up to 20 problems at once.
        """
        plain = self.plain_numbers
        if plain is not None and (encoded := plain.encode_rows(rows)) is not None:
            return {plain.input: encoded}, RowWarnings(len(rows))
        if len(rows) >= FEW_ROWS and (columns := self.columns_of(rows)) is not None:
            return self.encode_columns(columns)
        arrays, warnings = self.encode_one_by_one(rows)
        return arrays, RowWarnings.listed(warnings)

    def columns_of(self, rows: Rows) -> list[Sequence[Any]] | None:
        """Return the rows' values by column; None if a row is not an object or list of this encoder's columns."""
        kinds = set(map(type, rows))
        if kinds == {dict} and set(map(len, rows)) == {len(self.names)}:
            try:
                return [[row[name] for row in rows] for name in self.names]  # type: ignore[call-overload]
            except KeyError:
                return None
        if kinds <= {list, tuple} and set(map(len, rows)) == {len(self.names)}:
            return list(zip(*rows, strict=True))
        try:
            return list(zip(*(self.positional(row, 1) for row in rows), strict=True))
        except BadInput:
            return None

    def encode_columns(self, columns: Sequence[Sequence[Any]]) -> tuple[dict[str, np.ndarray], RowWarnings]:
        """Encode rows that are given by column, in the order of `names`; as `encode_rows`, to the bit.

        Whole columns are read at once, so values with a warning cost about as much as others.
        """
        arrays = self._zeros(len(columns[0]))
        encoded = [
            column.encode_values(values, arrays) for column, values in zip(self.raw_columns, columns, strict=True)
        ]
        refused = [one.refused for one in encoded if one.refused is not None]
        if refused:
            self._raise_problems(columns, np.unique(np.concatenate(refused)))

        def make(row: int, place: int) -> list[ValueWarning]:
            return self.raw_columns[place].encode_value(_cell(columns[place], row), self._zeros(1), 0)

        return arrays, RowWarnings.by_column(len(columns[0]), [one.warned for one in encoded], make)

    def _raise_problems(self, columns: Sequence[Sequence[Any]], rows: np.ndarray) -> None:
        """Raise BadInput with the problems of the first refused rows."""
        problems: list[Problem] = []
        arrays = self._zeros(1)
        for index in rows[:MAX_PROBLEMS].tolist():
            try:
                for values, column in zip(columns, self.raw_columns, strict=True):
                    column.encode_value(_cell(values, index), arrays, 0, index + 1)
            except BadInput as error:
                problems.extend(error.problems)
        raise BadInput(problems[0].detail, problems=problems[:MAX_PROBLEMS])

    def encode_one_by_one(self, rows: Rows) -> tuple[dict[str, np.ndarray], list[list[ValueWarning]]]:
        """Encode as `encode_rows` does, but row by row: faster for a few rows, slower for many."""
        arrays = self._zeros(len(rows))
        plan, targets = self.row_plan, self.row_plan.views_of_rows(list(arrays.values()))
        warnings: list[list[ValueWarning]] = []
        problems: list[Problem] = []
        for index, row in enumerate(rows):
            of_row: list[ValueWarning] = []
            if not plan.write(row, targets[index]):
                for array in arrays.values():
                    array[index] = 0
                try:
                    for value, column in zip(self.positional(row, index + 1), self.raw_columns, strict=True):
                        of_row += column.encode_value(value, arrays, index)
                except BadInput as error:
                    problems.extend(error.problems)
                    if len(problems) >= MAX_PROBLEMS:
                        break
            warnings.append(of_row)
        if problems:
            raise BadInput(problems[0].detail, problems=problems[:MAX_PROBLEMS])
        return arrays, warnings

    def _zeros(self, rows: int) -> dict[str, np.ndarray]:
        return {one.name: zeros((rows, *one.shape), one.dtype) for one in self.inputs}

    def positional(self, row: Any, number: int) -> Sequence[Any]:
        """Return a row's values in order; a column that a named row leaves out is missing. Raises BadInput."""
        if isinstance(row, Mapping):
            values = [row.get(name) for name in self.names]
            if len(row) > len(self.names) or any(name not in self._known for name in row):
                extra = excerpt_of_cell(next(name for name in row if name not in self._known))
                raise _bad_row(number, f"there is no column {extra!r}", extra, ", ".join(self.names[:20]))
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
        return {column.name: column.typical_value(table.column(column.name)) for column in self.leading}

    def baseline_row(self, distributions: Mapping[str, Any]) -> list[Any]:
        """Return the row that Shapley values compare with, given the columns' training distributions."""
        return [column.baseline_value(distributions.get(column.name) or {}) for column in self.leading]


def zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return zeros; a large array is aligned so that TensorFlow can use it without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < MANY_BYTES:
        return np.zeros(shape, dtype)
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _bad_row(number: int, what: str, received: Any, expected: str) -> BadInput:
    problem = Problem(f"Row {number}: {what}.", row=number, received=excerpt_of_cell(received), expected=expected)
    return BadInput(problem.detail, problems=[problem])


def _cell(values: Sequence[Any], index: int) -> Any:
    """Return one value of a column as JSON has it: NumPy's numbers have another text."""
    return values[index].item() if isinstance(values, np.ndarray) else values[index]


def _takes_numbers(column: RawColumn) -> bool:
    """Return whether a column's labels can be read from numbers: booleans, and categories written as numbers."""
    return all(isinstance(part, (BooleanColumn, CategoryColumn)) for part in column.parts)


class PlainNumbers:
    """Encodes a matrix of numbers at once, for columns that are plain numbers of one input, except for a few.

    It encodes only clean rows, in which no value is missing, infinite or outside the training range. They form one
    matrix, into which the few other ("odd") columns are then written one by one.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.input = encoder.inputs[0].name
        self.width = encoder.inputs[0].shape[0]
        self._values = encoder._values_of
        columns = self._raw_columns = encoder.raw_columns
        # An odd column's numbers must be small enough for integers and equal floats to share labels.
        ranges = [column.plain_range or (-MAX_EXACT, MAX_EXACT) for column in columns]
        self.low, self.high = np.array(ranges, np.float64).T
        self.columns = len(columns)
        self._parts = [
            (place, part)
            for place, column in enumerate(columns)
            for part in column.parts
            if isinstance(part, NumericColumn) and column.plain_range is not None
        ]
        # For each odd column: its index, its value writer, and its slices of the input.
        self.odd = [
            (place, column.writer(self.input, "float32"), [part.part for part in column.parts])
            for place, column in enumerate(columns)
            if column.plain_range is None
        ]
        odd_writers: dict[int, list[NumberWriter]]
        odd_writers = {place: [write] for place, write, _ in self.odd}
        self._writers = [
            (low, high, odd_writers.get(place) or column.number_writers())
            for place, ((low, high), column) in enumerate(zip(ranges, columns, strict=True))
        ]
        unscaled = (-MAX_EXACT, MAX_EXACT, 0.0, 1.0)  # placeholder for an odd column, which is written afterwards
        constants = [
            unscaled if place in odd_writers else part.plain_number
            for place, column in enumerate(columns)
            for part in (column.parts[:1] if place in odd_writers else column.parts)
        ]
        scaled = [one for one in constants if one is not None]
        # (low, high, center, scale) of each column, if all are scaled numbers and nothing else.
        self.constants = tuple(scaled) if len(scaled) == len(constants) == len(columns) else None
        if self.constants:
            _, _, self.center, self.scale = np.array(self.constants, np.float64).T
            with np.errstate(over="ignore"):
                bounds = ((np.array([self.low, self.high]) - self.center) / self.scale).astype(np.float32)
            self._clean_rows_fit = bool(np.isfinite(bounds).all())  # no clean number overflows float32
        offsets = [column.parts[0].offset for column in columns]
        # Target index of each number; None if they are in order without indicators between them.
        self.places = None if offsets == list(range(self.width)) else np.array(offsets)

    def clean_rows(self, values: np.ndarray) -> np.ndarray:
        """Return whether each row of (rows, columns) is clean: bool (rows,)."""
        return np.asarray(((values >= self.low) & (values <= self.high)).all(axis=1))

    def warnings(self, values: np.ndarray) -> RowWarnings:
        """Return the warnings of finite float64 (rows, columns)."""
        rows, places = ((values < self.low) | (values > self.high)).nonzero()
        if not len(rows):
            return RowWarnings(len(values))
        raw, scratch = self._raw_columns, {self.input: np.zeros((1, self.width), np.float32)}
        warned: list[dict[str, np.ndarray]] = [{}] * self.columns
        for place in set(places.tolist()):
            warned[place] = {"out_of_range": rows[places == place]}

        def make(row: int, place: int) -> list[ValueWarning]:
            return raw[place].encode_value(float(values[row, place]), scratch, 0)

        return RowWarnings.by_column(len(values), warned, make)

    def are_exact(self, values: np.ndarray) -> bool:
        """Return whether the odd columns' numbers are small enough for integers and equal floats to share labels."""
        return all(abs(value) < MAX_EXACT for place, _, _ in self.odd for value in values[:, place].tolist())

    def encode(self, values: np.ndarray) -> np.ndarray | None:
        """Encode finite float64 (rows, columns) as float32 (rows, width); None if an odd column's value is unusual.

        Plain numbers may be outside their ranges.
        """
        out: np.ndarray
        if self.constants is None:
            out = np.zeros((len(values), self.width), np.float32)
            missing = np.zeros(len(values), np.bool_)
            for place, part in self._parts:
                part.write_numbers(values[:, place], missing, out[:, part.part])
        else:
            with np.errstate(over="ignore"):  # numbers far outside the range overflow to infinity
                scaled: np.ndarray = (values - self.center) / self.scale
            if self.places is None:
                out = scaled.astype(np.float32, order="C")  # odd columns are written into it row by row
            else:
                out = np.zeros((len(values), self.width), np.float32)
                out[:, self.places] = scaled
        return out if not self.odd or self._write_odd(values, out, rows_of(out)) else None

    def write_clean(self, values: np.ndarray, out: np.ndarray, rows: Sequence[Row]) -> bool:
        """Write float64 (rows, columns) into float32 (rows, width); False if a row is not clean.

        `rows` are views of at least as many rows of `out`.
        """
        if not ((values >= self.low) & (values <= self.high)).all():  # NaN as well
            return False
        if self.constants is None or self.places is not None:
            encoded = self.encode(values)
            if encoded is None:
                return False
            out[:] = encoded
            return True
        if self._clean_rows_fit:
            self._scale_into(values, out)
        else:
            with np.errstate(over="ignore"):
                self._scale_into(values, out)
        return not self.odd or self._write_odd(values, out, rows)

    def _scale_into(self, values: np.ndarray, out: np.ndarray) -> None:
        """Scale in float64, and round once, to the float32 of `out`."""
        np.divide(values - self.center, self.scale, out=out, casting="same_kind")

    def _write_odd(self, values: np.ndarray, out: np.ndarray, rows: Sequence[Row]) -> bool:
        """Write the odd columns; False if a value is unusual."""
        for place, write, parts in self.odd:
            for part in parts:
                out[:, part] = 0.0
            for value, row in zip(values[:, place].tolist(), rows, strict=False):
                if not abs(value) < MAX_EXACT or not write(value, row):
                    return False
        return True

    def encode_few(self, numbers: Sequence[float]) -> np.ndarray | None:
        """Encode the numbers of some rows, one after the other; None if a row is not clean."""
        out = np.zeros((len(numbers) // self.columns, self.width), np.float32)
        flat: Row = memoryview(out.reshape(-1))  # type: ignore[arg-type]
        return out if self.write_few(numbers, flat) else None

    def write_few(self, numbers: Sequence[float], out: Row) -> bool:
        """Write the numbers of some rows, one after the other, into zeros; False if a row is not clean.

        Plain Python is faster than NumPy's calls for up to some dozens of numbers.
        """
        if self.odd or self.constants is None or self.places is not None:
            return self._write_each(numbers, out)
        encoded: list[float] = []
        add = encoded.append
        of_each = self.constants * (len(numbers) // len(self.constants))
        for value, (low, high, center, scale) in zip(numbers, of_each, strict=True):
            if not low <= value <= high:  # NaN as well
                return False
            add((value - center) / scale)
        out[: len(encoded)] = array("f", encoded)
        return True

    def _write_each(self, numbers: Sequence[float], out: Row) -> bool:
        each = iter(numbers)
        for start in range(0, len(numbers) // self.columns * self.width, self.width):
            row = out[start : start + self.width]
            for low, high, writers in self._writers:
                number = next(each)
                if not low <= number <= high:  # NaN as well
                    return False
                for write in writers:
                    if write(number, row) is False:  # only writers of unusual columns return False
                        return False
        return True

    def encode_rows(self, rows: Rows) -> np.ndarray | None:
        """Encode rows of JSON values, by name or by position; None if a row is not clean or has another form."""
        count = self.columns
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
        if len(numbers) <= FEW_NUMBERS:
            return self.encode_few(numbers)
        try:
            values = np.array(numbers, np.float64).reshape(-1, count)
        except OverflowError:
            return None
        return self.encode(values) if self.are_exact(values) and self.clean_rows(values).all() else None
