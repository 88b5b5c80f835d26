"""Tables: read with exact errors, understood, profiled, stored and split.

The errors for a refused table are defined here; they name the row, the column, the value and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fitserve.errors import BadInput, Malformed, Problem
from fitserve.excerpts import excerpt_of_cell

MAX_PROBLEMS = 20  # problems shown in one error
LENIENT_FIX = "Fix the row, or upload with lenient=true, which leaves such rows out and reports them."


class TableRefused(BadInput):
    """The table has values that are not valid."""

    slug = "table-refused"
    title = "Table refused"


class TableUnreadable(Malformed):
    """The bytes are not a table."""

    slug = "table-unreadable"
    title = "Table unreadable"


class TableEmpty(TableUnreadable):
    """There are no rows: no bytes, blank lines, or a header alone, whose `names` it keeps."""

    names: tuple[str, ...] = ()


def bad_value(row: int, column: str, received: Any, expected: str, note: str = "") -> Problem:
    """Return a problem for a value that does not fit its column's kind."""
    detail = f"Row {row}, column {column!r}: {excerpt_of_cell(received)!r} is not {expected}.{note}"
    fix = f"{LENIENT_FIX} If the column is of another kind, say so: kinds.{column}=categorical."
    if expected != "a text" and isinstance(received, str) and received.strip():
        option = f"formats.{column}.also_missing={excerpt_of_cell(received.strip(), 40)}"
        fix = f"If it stands for a missing value, say so, which keeps the row: {option}. {fix}"
    return Problem(detail, row=row, column=column, received=excerpt_of_cell(received), expected=expected, fix=fix)


def refuse(problems: Iterable[Problem], total: int | None = None) -> TableRefused:
    """Return the error for a table with these problems; it shows the first ones. `total` counts those not listed."""
    ordered = sorted(problems, key=lambda problem: (problem.row or 0, problem.column or ""))
    count = total or len(ordered)
    # only the first row fails: it may hold units, or be a second header
    if len(ordered) > 1 and {problem.row for problem in ordered} == {1}:
        fix = "Is row 1 part of the header? Take it out of the file, or upload with lenient=true, which leaves it out."
        ordered = [replace(problem, fix=fix) for problem in ordered]
    more = f" ({count} problems.)" if count > 1 else ""
    if count > MAX_PROBLEMS:
        more = f" ({count} problems; the first {MAX_PROBLEMS} are shown.)"
    return TableRefused(ordered[0].detail + more, problems=ordered[:MAX_PROBLEMS])
