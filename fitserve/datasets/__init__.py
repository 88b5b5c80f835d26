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
MAX_ROWS = 5  # rows named that have the same bad value
MAX_HEADER = 5  # first rows that may be part of a header
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
    ordered = _of_a_header(ordered) or _said_once(ordered)
    more = f" ({count} problems.)" if count > 1 else ""
    if count > MAX_PROBLEMS <= len(ordered):
        more = f" ({count} problems; the first {MAX_PROBLEMS} are shown.)"
    return TableRefused(ordered[0].detail + more, problems=ordered[:MAX_PROBLEMS])


def _of_a_header(problems: list[Problem]) -> list[Problem] | None:
    """Return one problem for each row if only the first rows fail: they may hold units, or be part of a header."""
    by_row: dict[int, list[Problem]] = {}
    for problem in problems:
        by_row.setdefault(problem.row or 0, []).append(problem)
    last = len(by_row)
    if len(problems) < 2 or [*by_row] != list(range(1, last + 1)) or last > MAX_HEADER:
        return None
    if last > 1 and len(by_row[last]) < 2:  # a few bad values, which happen to be the first ones
        return None
    if last == 1:
        fix = "Is row 1 part of the header? Take it out of the file, or upload with lenient=true, which leaves it out."
        return [replace(problem, fix=fix) for problem in problems]
    lenient = "upload with lenient=true, which leaves them out."
    fix = f"Are rows 1 to {last} part of the header? Take them out of the file, or {lenient}"
    found = []
    for first, *others in by_row.values():
        more = f" {len(others)} more of its values do not fit their columns." if others else ""
        found.append(replace(first, detail=first.detail + more, fix=fix))
    return found


def _said_once(problems: list[Problem]) -> list[Problem]:
    """Return the problems with those of the same value in a column as one, which names the other rows too."""
    alike: dict[object, list[Problem]] = {}
    for number, problem in enumerate(problems):
        is_value = problem.row is not None and problem.column is not None and problem.received is not None
        key = (problem.column, str(problem.received), problem.expected) if is_value else number
        alike.setdefault(key, []).append(problem)
    found = []
    for first, *others in alike.values():
        rows = ", ".join(str(other.row) for other in others[:MAX_ROWS])
        rows += " and more" if len(others) > MAX_ROWS else ""
        said = f" The same is in row{'s' if len(others) > 1 else ''} {rows}." if others else ""
        found.append(replace(first, detail=first.detail + said))
    return found
