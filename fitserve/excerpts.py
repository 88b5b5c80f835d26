"""Shorten texts and values for messages, responses and cells, and make them safe for spreadsheets."""

from __future__ import annotations

import math
from typing import Any

MAX_VALUE = 120  # characters of a request's value repeated in an error
MAX_CELL = 80  # characters of a table's cell
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes such a text for a formula


def shorten(text: str, length: int) -> str:
    """Return the text, cut to `length` characters including an ellipsis if it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def excerpt(value: Any) -> Any:
    """Return a value of a request, short enough for an error and with control characters escaped."""
    if isinstance(value, (bool, type(None), float)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**30 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple)) and len(value) > 20:
        return f"a list of {len(value)}"
    if isinstance(value, dict) and len(value) > 20:
        return f"a mapping of {len(value)}"
    text = (value if isinstance(value, str) else repr(value))[: 2 * MAX_VALUE]
    return shorten("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), MAX_VALUE)


def excerpt_of_cell(value: Any, length: int = MAX_CELL) -> Any:
    """Return a value of a table as it is, short enough for an error, and one that JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    text = value if isinstance(value, str) else repr(value)[: length + 1]
    return shorten(text.encode("utf-8", "replace").decode("utf-8"), length)


def escape_formula(text: str) -> str:
    """Return a text for a CSV file that a spreadsheet may open, which shows it and computes nothing."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
