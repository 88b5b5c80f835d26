"""The plain values that arguments take: exact about booleans, text and infinities, easy about `1e3` for 1000."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, WithJsonSchema

from fitserve.validation import Refused, shown

LARGEST = 2**53  # whole numbers above it do not survive JSON in every language


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("Expected a whole number.", received=shown(value), expected="a whole number")
    if abs(value) > LARGEST:
        raise Refused("This number is too large.", received=shown(value), expected=f"at most {LARGEST}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("Expected a number.", received=shown(value), expected="a number")
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise Refused("This number is too large.", received=shown(value), expected=f"at most {LARGEST}")
        return float(value)
    if not math.isfinite(value):
        raise Refused("Expected a finite number.", received=str(value), expected="a finite number")
    return value


Int = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Natural = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2**31 - 1)]
Number = Annotated[float, BeforeValidator(_number)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Above0 = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Rate = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Inside = Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)]
Flag = StrictBool
Text = StrictStr


def _pair(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return value
    return (value, value)


_ONE = {"type": "integer", "minimum": 1}
Pair = Annotated[
    tuple[Positive, Positive],
    BeforeValidator(_pair),
    WithJsonSchema({"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 2, "maxItems": 2}]}),
]


def _single(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return value[0]
    return value


Single = Annotated[
    int,
    BeforeValidator(_whole),
    BeforeValidator(_single),
    Field(ge=1),
    WithJsonSchema({"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1, "maxItems": 1}]}),
]


MOST_VALUES = 10_000


def _array(value: Any) -> Any:
    """A number, or lists of numbers of one shape: none of them ragged or empty, at most `MOST_VALUES` together."""
    if not isinstance(value, (list, tuple)):
        return _number(value)
    shape_of(value)
    if count(value) > MOST_VALUES:
        raise Refused("These are too many numbers.", received=count(value), expected=f"at most {MOST_VALUES}")
    return tuple(_array(item) for item in value)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of nested lists; `()` of a number. Raises Refused where they are ragged, empty or deeper than five."""
    shape: list[int] = []
    level = [value]
    while any(isinstance(item, (list, tuple)) for item in level):
        sizes = {len(item) if isinstance(item, (list, tuple)) else -1 for item in level}
        if len(sizes) > 1 or sizes & {0, -1} or len(shape) == 5:
            raise Refused(
                "These lists are no array.", received=shown(value), expected="lists of equal length, as [[1, 2]]"
            )
        shape.append(sizes.pop())
        level = [inner for item in level for inner in item]
    return tuple(shape)


def count(value: Any) -> int:
    """How many numbers nested lists hold."""
    return math.prod(shape_of(value))


_NUMBER = {"type": "number"}
Array = Annotated[
    Any,
    BeforeValidator(_array),
    WithJsonSchema({"anyOf": [_NUMBER, {"type": "array", "minItems": 1, "description": "Numbers, in lists"}]}),
]
