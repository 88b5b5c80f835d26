"""Common types for columns of two tables that are concatenated, and the cast to them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.column_parser import as_texts

WHOLE = pa.decimal128(20, 0)  # holds every signed and unsigned 64-bit integer


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type that can hold both types' values; text if no other can."""
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_integer(one) and types.is_integer(other):
        if types.is_uint64(one) or types.is_uint64(other):
            return pa.uint64() if types.is_unsigned_integer(one) and types.is_unsigned_integer(other) else WHOLE
        return pa.int64()
    if all(types.is_integer(kind) or types.is_decimal(kind) for kind in (one, other)):
        return _decimal(one, other)
    if all(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in (one, other)):
        return pa.float64()
    if all(types.is_timestamp(kind) or types.is_date(kind) for kind in (one, other)):
        return pa.timestamp("us", getattr(one, "tz", None))
    return pa.string()


def _decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a decimal with enough digits for both, before and after the point; a float if they are too many.

    More than 38 digits are possible only if one of the two already has more, which no stored table has.
    """
    kinds = [kind if pa.types.is_decimal(kind) else WHOLE for kind in (one, other)]
    scale = max(kind.scale for kind in kinds)
    digits = max(kind.precision - kind.scale for kind in kinds) + scale
    if digits <= 38:
        return pa.decimal128(digits, scale)
    return pa.decimal256(digits, scale) if digits <= 76 and max(k.precision for k in kinds) > 38 else pa.float64()


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast a column to a type from `common_type`."""
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if kind == pa.string():
        return column.cast(kind) if _is_text(column.type) else as_texts(column)
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type) and kind.tz != column.type.tz:
        # Keeps the digits and attaches the other column's zone, rather than converting the moment.
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit, kind.tz))
    return pc.cast(column, kind, safe=False)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
