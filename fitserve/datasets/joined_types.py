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
    if all(types.is_integer(kind) or types.is_decimal(kind) for kind in (one, other)):
        return _decimal(one, other)
    if all(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in (one, other)):
        return pa.float64()
    if all(types.is_timestamp(kind) or types.is_date(kind) for kind in (one, other)):
        return pa.timestamp("us", getattr(one, "tz", None))
    return pa.string()


def _decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a decimal with the digits of both, before and after the point; where those are too many, a float."""
    shapes = [(kind.precision, kind.scale) if pa.types.is_decimal(kind) else (20, 0) for kind in (one, other)]
    whole, scale = max(precision - scale for precision, scale in shapes), max(scale for _, scale in shapes)
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else pa.float64()


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
