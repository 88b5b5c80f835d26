"""Rows to predict, from a file, from the command line or from standard input."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from fitserve.errors import BadInput


def read_rows(source: str) -> list[Any]:
    """Rows from a file, from JSON text or from standard input. Raises BadInput."""
    if source.lstrip()[:1] in "[{" and source.strip():
        return _listed(_json(source, "the argument"))
    if source == "-":
        text, name = sys.stdin.read(), "-"
    else:
        try:
            text, name = Path(source).read_text(encoding="utf-8-sig"), source
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{source} cannot be read: {error}.", received=source) from None
    if text.lstrip()[:1] == "[":
        return _listed(_json(text, name))
    if text.lstrip()[:1] == "{":
        return [_json(line, f"{name}, line {n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    return _csv(text, name)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"That is not JSON ({where}): {error}.", received=text[:100]) from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _csv(text: str, name: str) -> list[Any]:
    """Rows of a CSV file with a header. Numbers and true/false become values; an empty field is missing."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise BadInput(f"{name}, line {reader.line_num}: this row has not the header's number of fields.")
        rows.append({column: _value(field) for column, field in row.items()})
    if not rows:
        raise BadInput(f"{name} holds no rows.", expected="a header and at least one row")
    return rows


def _value(field: str) -> Any:
    """Leading zeros are kept as text: `001` is no number."""
    text = field.strip()
    if not text:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return field
    try:
        number = float(text)
    except ValueError:
        return field
    return int(text) if digits.isdecimal() and len(digits) < 16 else number if number == number else None
