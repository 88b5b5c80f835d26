"""JSON as the control API reads it: bounded depth, no duplicate keys, no NaN, no number beyond a float.

RFC 8259 leaves all of these to the receiver; readers that disagree about them are how filters are passed.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from fitserve.errors import Malformed

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]+")
_NUMBER_DIGITS = 400  # more than any float or 64-bit integer needs


def loads(data: bytes, max_depth: int = 64) -> Any:
    """The value of a JSON text in UTF-8. Raises Malformed (400) saying what is wrong and where."""
    _check_depth(data, max_depth)
    try:
        text = data.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant, parse_float=_float, parse_int=_int
        )
    except UnicodeDecodeError as error:
        raise Malformed("The body is not UTF-8.", received=f"byte {error.object[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Malformed(f"The body is not JSON: {error.msg} at {where}.", expected="a JSON text (RFC 8259)") from None


def _check_depth(data: bytes, max_depth: int) -> None:
    """Before the parser recurses: brackets outside strings, counted."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    depth = 0
    for bracket in _NOT_BRACKETS.sub(b"", _STRINGS.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > max_depth:
            raise Malformed(f"The body nests deeper than {max_depth} levels.", expected=f"at most {max_depth} levels")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Malformed("A key stands twice in one object.", received=twice[:100], fix="Give each key once.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON.", received=name, expected="a finite number, or null")


def _float(digits: str) -> float:
    value = float(digits[:_NUMBER_DIGITS]) if len(digits) <= _NUMBER_DIGITS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise Malformed("A number is out of range.", received=digits[:40], expected="a 64-bit float")
    return value


def _int(digits: str) -> int:
    if len(digits) > _NUMBER_DIGITS:
        raise Malformed("A number is out of range.", received=digits[:40] + "...", expected="a shorter integer")
    return int(digits)
