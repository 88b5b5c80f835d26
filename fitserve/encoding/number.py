"""Base classes of numeric encodings: read and check numbers, scale them, handle missing values and the indicator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts, Kind
from fitserve.encoding.coercion import Column, as_number, as_seconds, bad_value, by_value, numbers_of
from fitserve.encoding.distribution import Distribution, numeric_distribution
from fitserve.encoding.encoding import Encoding, FittedColumn, Indicator, Row, Unusual, ValueWarning
from fitserve.errors import BadInput, Problem

NumberWriter = Callable[[float, Row], object]  # writes a finite number into a network input's row of zeros

_LARGEST = float(np.finfo(np.float64).max)
_LARGEST_SINGLE = float(np.finfo(np.float32).max)
_NUMBERS_OR_MISSING = frozenset({float, int, type(None)})
_YEAR = 86_400.0 * 366  # seconds; length of a time axis whose bounds are unknown


class NumericColumn(FittedColumn):
    """A column that is encoded from float64 numbers, NaN where missing. The last place is the indicator's, if any."""

    # Subclasses define how numbers are written. `out` is zeros of shape (width,), or (rows, width) for a column.

    def write_number(self, number: float, out: np.ndarray) -> ValueWarning | None:
        """Write one finite number."""
        raise NotImplementedError

    def write_missing(self, out: np.ndarray) -> None:
        """Write a missing number; by default zeros remain."""

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        """Write a column, float64 (rows,), NaN where `missing`."""
        raise NotImplementedError

    def convert(self, value: Any) -> float:
        """Return a JSON value as a number, NaN if missing. Raises TypeError, ValueError, OverflowError."""
        if self.kind == "datetime":
            return as_seconds(value, self.format)
        number = as_number(value, self.format)
        return math.nan if number in self.format.missing_numbers else number

    def numbers(self, column: Column) -> np.ndarray:
        """Return a table's column as float64 (rows,), NaN where missing. Raises BadInput."""
        return self._without_missing(numbers_of(column))

    def _without_missing(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers with NaN for those that stand for a missing value."""
        if self.kind != "numeric" or not self.format.missing_numbers:
            return numbers
        return np.where(np.isin(numbers, list(self.format.missing_numbers)), np.nan, numbers)

    def read_number(self, value: Any, row: int | None) -> float:
        """Return a JSON value as a number, NaN if missing. Raises BadInput."""
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError):
            expected = {"boolean": "a boolean (true or false)", "datetime": "a time (ISO 8601 or seconds since 1970)"}
            raise bad_value(self.name, row, value, expected.get(self.kind, "a number")) from None

    def number_writer(self) -> NumberWriter:
        """Return a function that writes a number into a row of the whole network input, like `write_number`."""
        write, part = self.write_number, self.part
        return lambda number, row: write(number, np.asarray(row)[part])

    def encode_value(self, value: Any, out: np.ndarray, row: int) -> ValueWarning | None:
        number = self.read_number(value, row)
        if number != number:
            self.refuse_missing(row)
            self.write_missing(out)
            if not self.encoding.indicator:
                return self.missing_warning()
            out[-1] = 1
            return None
        if number in (math.inf, -math.inf):
            raise bad_value(self.name, row, value, "a finite number")
        return self.write_number(number, out)

    def encode_values(self, values: Sequence[Any], out: np.ndarray) -> Unusual:
        numbers, refused = self._read_values(values)
        unusual, missing = Unusual(), ~np.isfinite(numbers)
        if missing.any():
            refused |= np.isinf(numbers)
            missing = np.isnan(numbers)
            if self.encoding.missing == "refuse":
                refused |= missing
            if self.encoding.indicator:
                out[:, -1] = missing
            elif missing.any():
                unusual.warned["missing_value"] = np.flatnonzero(missing)
        if refused.any():
            return Unusual(refused=np.flatnonzero(refused))
        self.write_numbers(numbers, missing, out)
        outside = self.outside(numbers)
        if outside is not None and outside.any():
            unusual.warned["out_of_range"] = np.flatnonzero(outside)
        return unusual

    def _read_values(self, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return JSON values as float64, NaN where missing, and which of them cannot be read."""
        if self.kind != "numeric":
            codes, distinct = by_value(values)  # booleans, and times, whose values repeat
            numbers, refused = self._read_each(distinct)
            return numbers[codes], refused[codes]
        if isinstance(values, np.ndarray):
            return self._without_missing(values), np.zeros(len(values), np.bool_)
        if _NUMBERS_OR_MISSING.issuperset(map(type, values)):
            try:
                return self._without_missing(np.array(values, np.float64)), np.zeros(len(values), np.bool_)
            except OverflowError:  # an integer too large for float64
                pass
        return self._read_each(values)

    def _read_each(self, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        numbers, refused = np.full(len(values), np.nan), np.zeros(len(values), np.bool_)
        for index, value in enumerate(values):
            try:
                numbers[index] = self.convert(value)
            except (TypeError, ValueError, OverflowError):
                refused[index] = True
        return numbers, refused

    def outside(self, numbers: np.ndarray) -> np.ndarray | None:
        """Return which numbers get a warning, bool (rows,); None where no number does. NaN gets none."""
        return None

    def encode_column(self, column: Column, out: np.ndarray) -> None:
        numbers = self.numbers(column)
        missing = np.isnan(numbers)
        if missing.any():
            self.refuse_missing(1 + int(np.argmax(missing)))
        if np.isinf(numbers).any():
            at = int(np.argmax(np.isinf(numbers)))
            raise bad_value(self.name, at + 1, float(numbers[at]), "a finite number")
        self.write_numbers(numbers, missing, out)
        if self.encoding.indicator:
            out[:, -1] = missing

    def raw_values(self, values: Column) -> np.ndarray:
        return self.numbers(values) if self.raw == "number" else super().raw_values(values)

    @property
    def datatype(self) -> Literal["BOOL", "FP64", "BYTES"]:
        return "FP64" if self.kind == "numeric" else "BYTES"

    def typical_value(self, values: Column) -> Any:
        numbers = self.numbers(values)
        numbers = numbers[np.isfinite(numbers)]
        return float(np.median(numbers)) if len(numbers) else None

    def axis_values(self, steps: int, low: float | None, high: float | None) -> Sequence[Any]:
        first = self.fitted.get("min", 0.0) if low is None else low
        last = self.fitted.get("max", _YEAR) if high is None else high
        if not (math.isfinite(first) and math.isfinite(last) and first <= last):
            raise BadInput(
                "These are not the bounds of an axis.", received=[low, high], expected="two numbers, the lower first"
            )
        if first == last:
            first, last = first - 1.0, last + 1.0
        return [float(value) for value in np.linspace(first, last, steps)]

    def distribution(self, values: Column) -> Distribution:
        return numeric_distribution(self.numbers(values)) if self.raw == "number" else super().distribution(values)

    def measurable(self, values: Sequence[Any]) -> Any:
        if self.raw == "string":
            return super().measurable(values)
        try:
            return np.array(values, np.float64)  # None becomes NaN
        except (TypeError, ValueError):
            return np.array([self._number_or_nan(value) for value in values])

    def _number_or_nan(self, value: Any) -> float:
        try:
            return self.read_number(value, None)
        except BadInput:
            return math.nan


class NumericEncoding(Encoding):
    """Base of the encodings of a `NumericColumn`: one number, and the indicator, if any."""

    def width(self, facts: ColumnFacts) -> int:
        return 1 + bool(self.indicator)

    def raw(self, facts: ColumnFacts) -> Literal["number", "string"]:
        return "number"


class RangedColumn(NumericColumn):
    """A numeric column that warns of numbers outside the training rows' `min` and `max`, which `fitted` holds."""

    @cached_property
    def usual_range(self) -> tuple[float, float] | None:
        """The range of numbers that get no warning; None for any.

        It includes the bounds rounded to float32, because a client that sends FP32 cannot express them exactly.
        """
        low, high = self.fitted.get("min"), self.fitted.get("max")
        if low is None or high is None:
            return None
        return min(float(low), _rounded(low)), max(float(high), _rounded(high))

    def outside(self, numbers: np.ndarray) -> np.ndarray | None:
        if self.usual_range is None:
            return None
        low, high = self.usual_range
        outside: np.ndarray = (numbers < low) | (numbers > high)
        return outside

    def range_warning(self, number: float) -> ValueWarning | None:
        """Return the warning for a number outside the training rows' range."""
        usual = self.usual_range
        if usual is None or usual[0] <= number <= usual[1]:
            return None
        low, high = self.fitted["min"], self.fitted["max"]
        message = f"{self.name} is {number:g}; training rows went from {low:g} to {high:g}"
        return ValueWarning(self.name, "out_of_range", message, number)

    @property
    def plain_range(self) -> tuple[float, float] | None:
        if self.kind != "numeric" or self.format.missing_numbers:
            return None
        return self.usual_range or (-_LARGEST, _LARGEST)


class ScaledColumn(RangedColumn):
    """A number becomes (f(x) - center) / scale, computed in float64; f is the encoding's `transform`.

    `fitted` holds center, scale, `fill` (raw, stands for missing), and the training rows' min and max.
    """

    encoding: ScaledNumber

    def scaled(self, number: Any) -> Any:
        """Return a number, or an array of them, as the network gets it."""
        return (self.encoding.transform(number) - self.fitted["center"]) / self.fitted["scale"]

    def number_writer(self) -> NumberWriter:
        at, scaled = self.offset, self.scaled
        center, scale = self.fitted["center"], self.fitted["scale"]

        def write(number: float, row: Row) -> None:
            row[at] = (number - center) / scale

        def write_transformed(number: float, row: Row) -> None:
            row[at] = scaled(number)

        return write if self.encoding.linear else write_transformed

    def write_number(self, number: float, out: np.ndarray) -> ValueWarning | None:
        out[0] = self.scaled(number)
        return self.range_warning(number)

    def write_missing(self, out: np.ndarray) -> None:
        out[0] = self.scaled(self.fitted["fill"])

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        out[:, 0] = self.scaled(np.where(missing, self.fitted["fill"], numbers))

    @property
    def plain_number(self) -> tuple[float, float, float, float] | None:
        limits = self.plain_range
        if not self.encoding.linear or limits is None:
            return None
        return *limits, float(self.fitted["center"]), float(self.fitted["scale"])

    def baseline_value(self, distribution: Mapping[str, Any]) -> Any:
        return self.fitted["fill"]


class ScaledNumber(NumericEncoding):
    """Base of the encodings that shift and scale a number: a subclass defines by how much."""

    kinds: ClassVar[tuple[Kind, ...]] = ("numeric", "datetime")
    column_class = ScaledColumn
    linear: ClassVar[bool] = True  # True if `transform` changes nothing

    missing: Literal["mean", "median", "zero", "refuse"] = Field(
        default="mean", description="What stands for a missing value"
    )
    indicator: Indicator = None

    def transform(self, number: Any) -> Any:
        """Transform a number, or an array of them, before it is scaled."""
        return number

    def center_and_scale(self, numbers: np.ndarray) -> tuple[float, float]:
        """Return the constants for the training rows' transformed numbers, of which there is at least one."""
        return 0.0, 1.0

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        numbers = numbers_of(values)
        present = numbers[~np.isnan(numbers)]
        if not np.isfinite(present).all():
            raise not_finite(facts.name, numbers)
        if not len(present):
            present = np.zeros(1)
        fill: Any = 0.0
        if self.missing == "mean":
            fill = np.mean(present)
        elif self.missing == "median":
            fill = 2 * np.median(present / 2)  # the sum of halves cannot overflow
        center, scale = self.center_and_scale(self.transform(present))
        # A constant column's spread is zero, up to rounding.
        if not np.isfinite(scale) or scale <= 1e-12 * max(1.0, abs(center)):
            scale = 1.0
        return {
            "fill": float(fill),
            "center": center,
            "scale": scale,
            "min": float(np.min(present)),
            "max": float(np.max(present)),
        }


def _rounded(number: float) -> float:
    """Return a number as float32 has it; one that is too large for it stays as it is."""
    if abs(number) > _LARGEST_SINGLE:
        return float(number)
    return float(np.float32(number))


def not_finite(name: str, numbers: np.ndarray) -> BadInput:
    """Return the error for training rows with an infinite number."""
    at = int(np.argmax(np.isinf(numbers)))
    problem = Problem(
        f"In column {name!r}, row {at + 1} of the training rows: {numbers[at]} is not a finite number.",
        row=at + 1,
        column=name,
        received=str(numbers[at]),
        expected="a finite number",
        fix="Leave the column out, or upload the dataset without such values.",
    )
    return BadInput(problem.detail, problems=[problem])
