"""Problems found in a table, gathered until there are enough to show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fitserve.encoding.coercion import clipped
from fitserve.errors import BadInput, Malformed, Problem

MOST = 20  # problems shown at once


class TableRefused(BadInput):
    """The table has values that cannot be taken."""

    slug = "table-refused"
    title = "Table refused"


class TableUnreadable(Malformed):
    """The bytes are no table."""

    slug = "table-unreadable"
    title = "Table unreadable"


LENIENT = "Mend the row, or upload with lenient=true, which leaves such rows out and reports them."


def ragged(row: int, expected: int, received: int, text: str) -> Problem:
    """A record with too many or too few fields."""
    detail = f"Row {row} has {received} fields; the header has {expected}."
    return Problem(
        detail, row=row, received=clipped(text), expected=f"{expected} fields", fix=LENIENT + " Is a quote missing?"
    )


def bad_value(row: int, column: str, received: Any, expected: str, note: str = "") -> Problem:
    """A field whose value is not of its column's kind."""
    detail = f"Row {row}, column {column!r}: {clipped(received)!r} is not {expected}.{note}"
    fix = LENIENT + f" If the column is of another kind, say so: kinds.{column}=categorical."
    return Problem(detail, row=row, column=column, received=clipped(received), expected=expected, fix=fix)


def refuse(problems: Iterable[Problem], total: int | None = None) -> TableRefused:
    """The error that shows the first problems, in the table's order."""
    ordered = sorted(problems, key=lambda problem: (problem.row or 0, problem.column or ""))
    count = total or len(ordered)
    more = f" ({count} problems in all; the first {MOST} are shown.)" if count > MOST else ""
    if count > 1 and not more:
        more = f" ({count} problems.)"
    return TableRefused(ordered[0].detail + more, problems=ordered[:MOST])
