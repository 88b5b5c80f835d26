"""Rows that cannot be trained on, because a target is missing or a number is infinite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.errors import Problem

FindRows = Callable[[str, bool], Sequence[int]]
"""Returns the numbers (from 1) of the rows in which a column is infinite or, of a target, missing."""
MAX_ROWS = 1000  # row numbers that a problem lists
MAX_NAMED = 20  # row numbers in the problem's sentence
LARGEST = 3.4e38  # largest float32
LEAVE_OUT = "rows_without_target: leave_out"


@dataclass(frozen=True, slots=True)
class UsedColumn:
    """A column that a spec trains on, and where the spec names it."""

    facts: ColumnFacts
    role: str  # target, feature or sample weight
    pointer: str

    @property
    def unusable(self) -> int:
        """The number of rows in which the column cannot be used."""
        return self.facts.infinite + (self.facts.missing if self.role == "target" else 0)


def unusable_columns(used: Sequence[UsedColumn]) -> Iterator[UsedColumn]:
    """Yield the columns in which some rows have no usable value."""
    return (column for column in used if column.unusable)


def refuse(column: UsedColumn, facts: DatasetFacts, find_rows: FindRows | None) -> Problem:
    """Return the problem of a column, with the dataset's row numbers."""
    detail, rows = _explain(column, facts, find_rows)
    fix = f"{LEAVE_OUT}, or upload the table with these values filled in."
    if column.role != "target":
        fix = f"{LEAVE_OUT}; or upload with missing=inf, so that they are missing; or leave the column out."
    return Problem(
        detail,
        column.pointer,
        row=rows[0] if rows else None,
        column=column.facts.name,
        received={"count": column.unusable, "rows": rows},
        expected="a value in every row" if column.role == "target" else "finite numbers",
        fix=fix,
    )


def untrainable(used: Sequence[UsedColumn], facts: DatasetFacts, least: int) -> Iterator[Problem]:
    """Yield problems that rule out training: too few rows, only zero weights, numbers beyond float32."""
    most = max((column.unusable for column in used), default=0)
    rows = facts.rows - most
    if rows < least and most < facts.rows:  # with no row left, the column itself is refused elsewhere
        detail = f"The table has {rows} {'row' if rows == 1 else 'rows'} with a value of the target."
        yield Problem(detail, "/dataset", received=rows, expected=f"at least {least}: to train on, and to stop by")
    for column in used:
        name, low, high = column.facts.name, column.facts.min, column.facts.max
        if column.role == "sample weight" and high == 0:
            detail = f"Every weight in {name!r} is 0: no row counts."
            yield Problem(detail, column.pointer, column=name, received=0, expected="weights above 0")
        if column.role == "target" and column.facts.kind == "numeric" and max(abs(low or 0), abs(high or 0)) > LARGEST:
            detail = f"{name!r} runs from {low:g} to {high:g}; a network computes with numbers up to {LARGEST:.2g}."
            fix = "Divide the column by a power of ten, or take its logarithm."
            yield Problem(detail, column.pointer, column=name, expected="numbers of single precision", fix=fix)


def left_out(column: UsedColumn, facts: DatasetFacts, find_rows: FindRows | None) -> str:
    """Return the notice about a column whose unusable rows are left out."""
    return f"{_explain(column, facts, find_rows)[0]} These rows are left out."


def _explain(column: UsedColumn, facts: DatasetFacts, find_rows: FindRows | None) -> tuple[str, list[int]]:
    rows = [] if find_rows is None else list(find_rows(column.facts.name, column.role == "target"))
    count = len(rows) or column.unusable
    named = ", ".join(map(str, rows[:MAX_NAMED])) + (", ..." if len(rows) > MAX_NAMED else "")
    what = []
    if column.role == "target" and column.facts.missing:
        what.append("has no value")
    if column.facts.infinite:
        what.append("is infinite")
    plural = "row" if count == 1 else "rows"
    where = f" ({plural} {named})" if rows else ""
    detail = f"The {column.role} {column.facts.name!r} {' or '.join(what)} in {count} of {facts.rows} rows{where}."
    return detail, rows[:MAX_ROWS]


def describe(counts: dict[str, Any]) -> str:
    """Describe in one sentence the rows that were left out, given their number by column."""
    return ", ".join(f"{rows} for {column!r}" for column, rows in counts.items())
