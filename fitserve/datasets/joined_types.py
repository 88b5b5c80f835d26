"""Types under which columns of two tables can stand below each other, and the cast to them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.column_parser import as_texts


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type that holds the values of both; text where nothing else does."""
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_integer(one) and types.is_integer(other):
        return pa.int64()
    if types.is_decimal(one) and types.is_decimal(other) and one.scale == other.scale:
        return one if one.precision > other.precision else other
    if all(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in (one, other)):
        return pa.float64()
    if all(types.is_timestamp(kind) or types.is_date(kind) for kind in (one, other)):
        return pa.timestamp("us", getattr(one, "tz", None))
    return pa.string()


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column under a type that `common_type` gave."""
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if kind == pa.string():
        return column.cast(kind) if _is_text(column.type) else as_texts(column)
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type) and kind.tz != column.type.tz:
        # The same digits under the other's time zone, rather than the same moment.
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit, kind.tz))
    return pc.cast(column, kind, safe=False)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
