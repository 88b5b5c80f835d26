"""Arrow's many types as the few that a dataset has: what each may be read as, and its values under that type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.column_parser import as_texts

Checked = tuple[pa.Array, np.ndarray | None]  # values, and a mask (bool) of those that cannot be read
_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # years 1 to 9999, in days from 1970


class Overflow(Exception):
    """A value does not fit the type: the column must be read as the next one."""


@dataclass(frozen=True)
class ColumnReading:
    """One way to read a column. `convert` may raise Overflow."""

    arrow_type: pa.DataType
    convert: Callable[[pa.Array], Checked]
    expected: str = "a value of the column's type"  # what a bad value should have been
    notice: tuple[str, str] | None = None  # code and message of what this reading changes


def readings_of(kind: pa.DataType, *, ignored: bool = False) -> list[ColumnReading]:
    """Return how a column of a type may be read, the best first; nothing where it holds no plain values.

    Of an `ignored` column, bytes are shown in hexadecimal, and nested values as JSON.
    """
    types = pa.types
    if ignored:
        readings = readings_of(kind)
        is_plain = bool(readings) and not (types.is_binary(kind) or types.is_large_binary(kind))
        return readings if is_plain else [ColumnReading(pa.string(), lambda column: (_as_json_texts(column), None))]
    if isinstance(kind, pa.BaseExtensionType):
        return _extension_readings(kind)
    if types.is_dictionary(kind):
        return _after(readings_of(kind.value_type), lambda column: column.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return _after(readings_of(kind.value_type), pc.run_end_decode)
    if types.is_null(kind):
        return [ColumnReading(pa.int64(), _cast(pa.int64()))]
    if types.is_duration(kind):
        unit = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[kind.unit]
        notice = ("duration_as_number", f"Durations are read as whole numbers of {unit}.")
        return [ColumnReading(pa.int64(), _cast(pa.int64()), notice=notice)]
    if types.is_time(kind):
        notice = ("time_of_day_as_text", "Times of day without a date are read as texts.")
        return [ColumnReading(pa.string(), lambda column: (_time_texts(column), None), notice=notice)]
    if types.is_timestamp(kind) or types.is_date(kind):
        return [_time_reading(kind)]
    if types.is_uint64(kind):
        return [ColumnReading(pa.int64(), _cast_or_overflow(pa.int64())), _digits_as_text()]
    if types.is_decimal(kind):
        return _decimal_readings(kind)
    if types.is_float16(kind):
        return [ColumnReading(pa.float32(), _cast(pa.float32()))]
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return [ColumnReading(kind, lambda column: (column, None))]
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if any(is_kind(kind) for is_kind in (*binary, *texts)):
        target = kind if types.is_large_string(kind) else pa.string()
        return [ColumnReading(target, lambda column: _utf8(column, target), "UTF-8 text")]
    return []


def _as_json_texts(column: pa.Array) -> pa.Array:
    """Return nested values as their JSON texts, bytes in hexadecimal, and what JSON lacks as Python prints it."""

    def text(value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, bytes):
            return value.hex()
        return json.dumps(value, default=lambda item: item.hex() if isinstance(item, bytes) else str(item))

    return pa.array([text(value) for value in column.to_pylist()], pa.string())


def _after(readings: list[ColumnReading], first: Callable[[pa.Array], pa.Array]) -> list[ColumnReading]:
    """Return readings whose columns are decoded first."""

    def decoded(reading: ColumnReading) -> Callable[[pa.Array], Checked]:
        return lambda column: reading.convert(first(column))

    return [ColumnReading(one.arrow_type, decoded(one), one.expected, one.notice) for one in readings]


def _extension_readings(kind: Any) -> list[ColumnReading]:
    if kind.extension_name == "arrow.uuid":
        return [ColumnReading(pa.string(), lambda column: (_uuid_texts(column.storage), None))]
    if kind.extension_name == "arrow.bool8":
        return [ColumnReading(pa.bool_(), lambda column: (column.storage.cast(pa.bool_()), None))]
    return _after(readings_of(kind.storage_type), lambda column: column.storage)


def _uuid_texts(column: pa.Array) -> pa.Array:
    hexes = [None if value is None else value.hex() for value in column.to_pylist()]
    texts = [h and f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in hexes]
    return pa.array(texts, pa.string())


def _time_texts(column: pa.Array) -> pa.Array:
    """Return times of day without zeros at the end of their fractions, whose number differs between formats."""
    without_zeros = pc.replace_substring_regex(column.cast(pa.string()), r"(\.\d*?)0+$", r"\1")
    return pc.utf8_rtrim(without_zeros, ".")


def _decimal_readings(kind: Any) -> list[ColumnReading]:
    """Read whole numbers as int64 where that holds them, else as their digits; others stay decimals."""
    if kind.scale <= 0:
        return [ColumnReading(pa.int64(), _cast_or_overflow(pa.int64())), _digits_as_text()]
    if kind.precision <= 38:
        plain = pa.decimal128(kind.precision, kind.scale)
        return [ColumnReading(plain, _cast(plain))]
    plain = pa.decimal128(38, kind.scale) if kind.scale <= 38 else pa.float64()
    notice = ("digits_rounded", "Decimals of more than 38 digits are read as floating-point numbers.")
    return [
        ColumnReading(plain, _cast_or_overflow(plain)),
        ColumnReading(pa.float64(), _cast(pa.float64()), notice=notice),
    ]


def _digits_as_text() -> ColumnReading:
    notice = ("digits_as_text", "Whole numbers that 64 bits cannot hold are read as texts, with all their digits.")
    return ColumnReading(pa.string(), lambda column: (as_texts(column), None), notice=notice)


def _cast(target: pa.DataType) -> Callable[[pa.Array], Checked]:
    return lambda column: (column.cast(target), None)


def _cast_or_overflow(target: pa.DataType) -> Callable[[pa.Array], Checked]:
    def convert(column: pa.Array) -> Checked:
        try:
            return column.cast(target), None
        except pa.ArrowInvalid:
            raise Overflow from None

    return convert


def _time_reading(kind: Any) -> ColumnReading:
    """Read dates and times of the years 1 to 9999, to the microsecond."""
    is_date, zone = pa.types.is_date(kind), getattr(kind, "tz", None)
    if zone is not None and not _is_known_zone(zone):
        zone = "UTC"
    unit = kind.unit if not is_date else ""
    target = kind if is_date else pa.timestamp("us" if unit == "ns" else unit, zone)
    per_day = (1 if pa.types.is_date32(kind) else _PER_DAY["ms"]) if is_date else _PER_DAY[unit]
    margin = 0 if zone is None else 1  # a day that another zone's hours may need
    low, high = (_FIRST_DAY + margin) * per_day, (_LAST_DAY + 1 - margin) * per_day - 1

    def convert(column: pa.Array) -> Checked:
        ticks = column.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date32(kind) else column.cast(pa.int64())
        bad = None
        least, most = (one.as_py() for one in pc.min_max(ticks).values()) if unit != "ns" else (None, None)
        if least is not None and most is not None and (least < low or most > high):
            outside = pc.or_(pc.less(ticks, low), pc.greater(ticks, high)).fill_null(False)
            bad = outside.to_numpy(zero_copy_only=False)
            column = pc.if_else(outside, pa.scalar(None, column.type), column)
        return column.cast(target, safe=False), bad

    notice = None
    if unit == "ns":
        notice = ("time_to_microseconds", "Times are kept to the microsecond.")
    if zone != getattr(kind, "tz", None):
        notice = ("unknown_time_zone", f"The time zone {kind.tz[:60]!r} is not known; the times are shown in UTC.")
    return ColumnReading(target, convert, "a time in the years 1 to 9999", notice)


def _is_known_zone(zone: str) -> bool:
    try:
        pa.scalar(0, pa.timestamp("us", zone)).as_py()
        pc.cast(pa.scalar(0, pa.timestamp("us", zone)), pa.string())
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return False
    return True


def _utf8(column: pa.Array, target: pa.DataType) -> Checked:
    """Return texts, with a mask of those that are not UTF-8: their type promises it, and files break the promise."""
    if not pa.types.is_fixed_size_binary(column.type):
        large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
        column = column.cast(pa.large_binary() if large else pa.binary(), safe=False)
    try:
        return column.cast(target), None
    except pa.ArrowInvalid:
        values = column.to_pylist()
    bad = np.array([value is not None and not _is_utf8(value) for value in values], bool)
    if not bad.any():  # more than 2 GB in one batch
        raise pa.ArrowInvalid("the texts of one batch are too long")
    readable = [None if wrong else value for value, wrong in zip(values, bad, strict=True)]
    return pa.array(readable, pa.binary()).cast(target), bad


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
