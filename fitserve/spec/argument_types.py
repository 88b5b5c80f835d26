"""Types of arguments: exact about booleans, text and infinities, lenient about `1e3` for 1000."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema

from fitserve.excerpts import excerpt
from fitserve.validation import InvalidValue

MAX_INTEGER = 2**53  # larger ones do not survive JSON in every language
MAX_ARRAY = 10_000  # numbers in an array
MAX_RANK = 5


def _integer(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue("Expected a whole number.", received=excerpt(value), expected="a whole number")
    if abs(value) > MAX_INTEGER:
        raise InvalidValue("This number is too large.", received=excerpt(value), expected=f"at most {MAX_INTEGER}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidValue("Expected a number.", received=excerpt(value), expected="a number")
    if isinstance(value, int):
        return float(_integer(value))
    if not math.isfinite(value):
        raise InvalidValue("Expected a finite number.", received=str(value), expected="a finite number")
    return value


Int = Annotated[int, BeforeValidator(_integer)]
Positive = Annotated[Int, Field(ge=1)]
Natural = Annotated[Int, Field(ge=0)]
Seed = Annotated[Int, Field(ge=0, le=2**31 - 1)]
Number = Annotated[float, BeforeValidator(_number)]
NonNegative = Annotated[Number, Field(ge=0)]
Above0 = Annotated[Number, Field(gt=0)]
# The bounds stand before the check, so that the API's JSON Schema has them as `minimum` and `maximum`.
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]  # 0 to 1
ShareAbove0 = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]
Rate = Annotated[Number, Field(ge=0, lt=1)]  # 0 to below 1
Inside = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_number)]  # between 0 and 1
Flag = StrictBool


def one_or_list(schema: dict[str, Any], at_least: int, at_most: int) -> WithJsonSchema:
    """Return the JSON Schema of a value that may be written alone or as a list."""
    listed = {"type": "array", "items": schema, "minItems": at_least, "maxItems": at_most}
    return WithJsonSchema({"anyOf": [schema, listed]})


def _pair(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value, value)


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


_POSITIVE, _NATURAL = {"type": "integer", "minimum": 1}, {"type": "integer", "minimum": 0}
# One number for each axis of an image, or one for both; for a sequence, also written as a list.
Pair = Annotated[tuple[Positive, Positive], BeforeValidator(_pair), one_or_list(_POSITIVE, 2, 2)]
Single = Annotated[Positive, BeforeValidator(_single), one_or_list(_POSITIVE, 1, 1)]
# Before and after a sequence.
Sides = Annotated[tuple[Natural, Natural], BeforeValidator(_pair), one_or_list(_NATURAL, 2, 2)]


def _array(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return _number(value)
    if (size := math.prod(shape_of(value))) > MAX_ARRAY:
        raise InvalidValue("These are too many numbers.", received=size, expected=f"at most {MAX_ARRAY}")
    return tuple(_array(item) for item in value)


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of nested lists; `()` of a number. Raises InvalidValue if ragged, empty or above rank 5."""
    shape: list[int] = []
    level = [value]
    while any(isinstance(item, (list, tuple)) for item in level):
        sizes = {len(item) if isinstance(item, (list, tuple)) else -1 for item in level}
        if len(sizes) > 1 or sizes & {0, -1} or len(shape) == MAX_RANK:
            detail = "These lists are not an array."
            raise InvalidValue(detail, received=excerpt(value), expected="lists of equal length, such as [[1, 2]]")
        shape.append(sizes.pop())
        level = [inner for item in level for inner in item]
    return tuple(shape)


# A number, or nested lists of numbers that form an array.
Array = Annotated[
    Any,
    BeforeValidator(_array),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "array", "minItems": 1, "description": "Numbers, in lists"}]}
    ),
]
