"""Types under which columns of two tables can stand below each other, and the cast to them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.column_parser import as_texts

WHOLE = pa.decimal128(20, 0)  # holds every whole number of 64 bits, with a sign and without


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type that holds the values of both; text where nothing else does."""
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
    """Return a decimal with the digits of both, before and after the point; where those are too many, a float.

    Only where one of them has more than 38 digits may there be more: a stored table has no such type.
    """
    kinds = [kind if pa.types.is_decimal(kind) else WHOLE for kind in (one, other)]
    scale = max(kind.scale for kind in kinds)
    digits = max(kind.precision - kind.scale for kind in kinds) + scale
    if digits <= 38:
        return pa.decimal128(digits, scale)
    return pa.decimal256(digits, scale) if digits <= 76 and max(k.precision for k in kinds) > 38 else pa.float64()


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
