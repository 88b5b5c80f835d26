"""Convert values to numbers, labels or times, in the same way for tables and for JSON rows.

None and NaN are missing, and so is a text that means missing in the dataset's column: texts are parsed as in the
uploaded file (`fitserve.parsing`). pyarrow is imported only in functions that read a table, because the client's wheel
does not depend on it.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fitserve.errors import BadInput, Problem
from fitserve.excerpts import excerpt_of_cell
from fitserve.parsing.column_format import PLAIN, ColumnFormat
from fitserve.parsing.numbers import read_number
from fitserve.parsing.short_dates import digits_with_year_last
from fitserve.parsing.times import microseconds_of_number, read_time, text_of_compact
from fitserve.parsing.words import FALSE, TRUE

if TYPE_CHECKING:
    import pyarrow as pa

    Column: TypeAlias = pa.ChunkedArray | pa.Array  # a table's column
else:
    Column = Any


def bad_value(column: str, row: int | None, received: Any, expected: str) -> BadInput:
    """Make the error for one unusable value, naming row (from 1), column, the value and what was expected."""
    shown = excerpt_of_cell(received)
    where = f"column {column!r}" + ("" if row is None else f", row {row}")
    problem = Problem(
        f"In {where}: {shown!r} is not {expected}.", row=row, column=column, received=shown, expected=expected
    )
    return BadInput(problem.detail, problems=[problem])


def as_label(value: Any, format: ColumnFormat = PLAIN) -> str | None:
    """Return a value as a category: 3 and 3.0 are "3", True is "true", a time is ISO 8601; None if missing.

    A text is parsed in the column's format: in a column of numbers with decimal commas, "3,0" is "3" too. Raises
    TypeError.
    """
    if isinstance(value, str):
        return (value or None) if format is PLAIN else _label_of_text(value, format)
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if format.missing_numbers and isinstance(value, (int, float, np.number)) and value in format.missing_numbers:
        return None
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if number != number:
            return None
        return str(int(number)) if number.is_integer() and abs(number) < 1e16 else repr(number)
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else format_decimal(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a label")


def format_decimal(value: Decimal) -> str:
    """Format a fractional decimal with all its digits, without exponent and trailing zeros."""
    return f"{value:f}".rstrip("0")


def _label_of_text(text: str, format: ColumnFormat) -> str | None:
    """Return the label of a text; one that does not parse in the column's format stays as it is, an unknown label."""
    if format.is_missing(text):
        return None
    try:
        if format.is_number:
            return as_label(read_number(text, format), format)
        if format.time is not None:
            return datetime.fromtimestamp(read_time(text, format), UTC).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        return text
    return format.label(text)


def group_labels(values: Iterable[Any], format: ColumnFormat) -> list[str | None]:
    """Return cells as group labels, converted like categories of a column with that format; None if missing."""
    labels: list[str | None] = []
    for value in values:
        try:
            labels.append(as_label(value, format))
        except TypeError:
            labels.append(None)
    return labels


def label_or_text(value: Any) -> str | None:
    """Return a value as a category or, if it cannot be one, as its text; None if missing."""
    try:
        return as_label(value)
    except TypeError:
        return str(value)


def as_number(value: Any, format: ColumnFormat = PLAIN) -> float:
    """Return a JSON number, or a text in the column's number format, as float64; NaN if missing.

    Raises TypeError, ValueError, OverflowError.
    """
    kind = type(value)
    if kind is float:
        return float(value)
    if kind is int:
        return float(value)
    if value is None:
        return math.nan
    if kind is str:
        return math.nan if format.is_missing(value) else float(read_number(value, format))
    if isinstance(value, (np.floating, np.integer)):
        return float(value)
    raise TypeError("not a number")


def as_boolean(value: Any, true: str, false: str, format: ColumnFormat = PLAIN) -> float:
    """Return 1.0, 0.0, or NaN if missing; `true` and `false` are the dataset's own spellings. Raises TypeError."""
    if isinstance(value, str) and format.is_missing(value):
        return math.nan
    label = as_label(value, format)
    if label is None:
        return math.nan
    if label in (true, false):
        return 1.0 if label == true else 0.0
    lowered = label.strip().lower()
    if lowered in TRUE or lowered in FALSE:
        return 1.0 if lowered in TRUE else 0.0
    raise TypeError("not a boolean")


def as_seconds(value: Any, format: ColumnFormat = PLAIN) -> float:
    """Return seconds since 1970 in UTC from a number, or from a text in the column's time format or ISO 8601.

    Seconds, milli-, micro- and nanoseconds are distinguished by size, unless the column has one unit; 20240131 is
    a day where the column's dates begin with the year, 31012024 where they end with it. NaN if missing. Raises
    TypeError, ValueError, OverflowError.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool):
        raise TypeError("not a time")
    if isinstance(value, (int, float, np.integer, np.floating)):
        if value != value:
            return math.nan
        if (digits := _digits_of_day(float(value), format)) is not None:
            return _seconds_of_text(digits, format)
        return microseconds_of_number(float(value) if isinstance(value, np.generic) else value, format) / 1e6
    if isinstance(value, str):
        return math.nan if format.is_missing(value) else _seconds_of_text(value, format)
    if not isinstance(value, datetime):
        if not isinstance(value, date):
            raise TypeError("not a time")
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    delta: timedelta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400_000_000 + delta.seconds * 1_000_000 + delta.microseconds) / 1e6


def _digits_of_day(number: float, format: ColumnFormat) -> str | None:
    """Return the digits of a number that is a date, year and day in the column's order; None if it is none."""
    if format.time == "ymd":
        return text_of_compact(number)
    return digits_with_year_last(number) if format.time in ("dmy", "mdy") else None


def _seconds_of_text(text: str, format: ColumnFormat) -> float:
    """Parse a text in the column's time format, or else as ISO 8601. Raises ValueError."""
    bare = text.strip()
    if format.time in ("dmy", "mdy") and len(bare) == 7 and bare.isdecimal():
        bare = f"0{bare}"  # 1022024, as programs write 01022024 that take it for a number
    try:
        return read_time(bare, format)
    except ValueError:
        return as_seconds(datetime.fromisoformat(bare))


def looked_up(places: dict[Any, int], values: Sequence[Any]) -> np.ndarray:
    """Return each value's place, int64 (rows,), read-only. Raises KeyError, and TypeError for a list or an object.

    `itemgetter` and `struct` take half of the time of `map` and NumPy, if `places` is a plain dictionary.
    """
    if len(values) < 2:
        return np.array([places[value] for value in values], np.int64)
    return np.frombuffer(struct.pack(f"{len(values)}q", *operator.itemgetter(*values)(places)), np.int64)


def has_booleans(values: Sequence[Any]) -> bool:
    """Return whether any of these JSON values is a boolean. To Python it equals a number: true is 1."""
    import msgspec  # the client's wheel does not depend on it

    try:
        msgspec.convert(values, list[str | int | float | None])  # takes a third of the time of looking at the types
    except msgspec.ValidationError:
        return bool in set(map(type, values))
    return False


def by_value(values: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Return int64 codes (rows,) into the distinct JSON values, and those values: 1, 1.0 and true are distinct."""
    kinds = set(map(type, values))
    keys: Sequence[Any] = values
    # types without equal values among them: 1 == 1.0 == true cannot occur
    if not (kinds <= {str, int, type(None)} or kinds <= {str, bool, type(None)}):
        keys = [value if type(value) is str else (type(value), repr(value)) for value in values]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    codes = looked_up(places, keys)
    if keys is values:
        return codes, list(places)
    _, first = np.unique(codes, return_index=True)
    return codes, [values[index] for index in first.tolist()]


def _single_array(column: Column) -> pa.Array:
    """Return the column as one array, a dictionary decoded."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more than 2 GB of strings exceed an array's 32-bit offsets
        array = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in array.chunks])
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def numbers_of(column: Column) -> np.ndarray:
    """Return a column as float64 (rows,), NaN where missing; times as seconds since 1970 in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = _single_array(column)
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        micro = array.cast(pa.timestamp("us", kind.tz if pa.types.is_timestamp(kind) else None), safe=False)
        whole = micro.cast(pa.int64())
        values = whole.fill_null(0).to_numpy(zero_copy_only=False) / 1e6
        values[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return np.asarray(values, np.float64)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def labels_of(column: Column) -> tuple[np.ndarray, list[str]]:
    """Return int64 codes (rows,) into the column's distinct labels, -1 where missing, and those labels."""
    encoded = _single_array(column).dictionary_encode()
    values = [as_label(value) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    places: dict[str, int] = {}
    lookup = np.full(len(values) + 1, -1, np.int64)
    for index, label in enumerate(values):
        if label is not None:
            lookup[index] = places.setdefault(label, len(places))
    return lookup[codes], list(places)


def texts_of(column: Column) -> list[str | None]:
    """Return a column as texts, None where missing."""
    return [as_label(value) for value in _single_array(column).to_pylist()]
