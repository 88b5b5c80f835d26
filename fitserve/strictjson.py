"""JSON as the control API reads it: bounded depth, no duplicate keys, no NaN, no number beyond a float, only text.

Text has neither NUL nor half of a surrogate pair, which UTF-8 cannot write.

RFC 8259 leaves all of these to the receiver; two readers that disagree about them let an attacker bypass a filter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fitserve.errors import Malformed

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]++")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")  # preceded by an even number of backslashes
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_DIGITS = 400  # digits of a number: more than any float or 64-bit integer needs


class TooDeep(Malformed):
    """The JSON text nests too deep."""


def loads(data: bytes, max_depth: int = 64) -> Any:
    """Return the value of a JSON text in UTF-8. Raises Malformed (400) with what is wrong and where."""
    _check_depth(data, max_depth)
    if b"\\u0000" in data and _NUL.search(data):
        raise no_nul()
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant, parse_float=_float, parse_int=_int
        )
    except UnicodeDecodeError as error:
        raise Malformed("The body is not UTF-8.", received=f"byte {error.object[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Malformed(f"The body is not JSON: {error.msg} at {where}.", expected="a JSON text (RFC 8259)") from None
    if _SURROGATE.search(data):
        _check_pairs(value)
    return value


def _check_pairs(value: Any) -> None:
    """Raise Malformed where a text has half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Malformed(
            "A text has half of a surrogate pair.",
            received=f"\\u{ord(error.object[error.start]):04x}",
            expected="texts that UTF-8 can write",
        ) from None


def no_nul(**where: Any) -> Malformed:
    """Return the refusal of a text with a NUL: PostgreSQL stores JSON that has one, and then can read nothing in it."""
    return Malformed("A text has a NUL character.", expected="texts without NUL characters", **where)


def finite_json(value: Any, digits: int | None = None, default: Callable[[Any], Any] | None = None) -> Any:
    """Return `value` as JSON values, with NaN and infinities as None: JSON has neither, and PostgreSQL refuses them.

    Floats are rounded to `digits` significant digits where given. NumPy's scalars and arrays become Python's.
    `default` converts a value of any other type; without it such a value is returned unchanged.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(value) if digits is None else float(f"{value:.{digits}g}")
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): finite_json(item, digits, default) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item, digits, default) for item in value]
    if default is not None:
        return default(value)
    return finite_json(value.tolist(), digits) if hasattr(value, "tolist") else value


def _check_depth(data: bytes, max_depth: int) -> None:
    """Count brackets outside strings, before the parser recurses."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    depth = 0
    for bracket in _NOT_BRACKETS.sub(b"", _STRINGS.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > max_depth:
            raise TooDeep(f"The body nests deeper than {max_depth} levels.", expected=f"at most {max_depth} levels")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Malformed("An object has the same key twice.", received=twice[:100], fix="Give each key once.")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON.", received=name, expected="a finite number, or null")


def _float(digits: str) -> float:
    value = float(digits[:_MAX_DIGITS]) if len(digits) <= _MAX_DIGITS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise Malformed("A number is out of range.", received=digits[:40], expected="a 64-bit float")
    return value


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Malformed("A number is out of range.", received=digits[:40] + "...", expected="a shorter integer")
    return int(digits)
