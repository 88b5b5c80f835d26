"""Queries: which ones are accepted, what they return, and how the others are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fitserve.datasets.sources.connections import SourceRefused
from fitserve.errors import Problem
from fitserve.wire.notices import Notice

# The parts of a query that matter here. Each character is read once: an unended comment or quoted text takes the rest.
_PART = re.compile(
    r"""
    (?P<blank> \s++ | --[^\n]*+ | /\*(?>(?:[^*]++|\*(?!/))*)(?:\*/|\Z) | ; )
    | '[^']*+(?:'|\Z) | "[^"]*+(?:"|\Z) | `[^`]*+(?:`|\Z)
    | (?P<word> \w++ )
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_READS = frozenset(("select", "with", "values", "table"))
_TO_FILE = frozenset(("outfile", "dumpfile"))
POINTER = "/source/sql/query"


@dataclass
class QueryResult:
    """An open query."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    snapshot: dict[str, Any]
    notices: list[Notice] = field(default_factory=list)


def _parts(query: str) -> Iterator[re.Match[str]]:
    """Yield the parts of a query without blanks, comments and semicolons."""
    return (part for part in _PART.finditer(query) if part["blank"] is None)


def checked_query(query: str) -> str:
    """Return a query without semicolons and comments at its end. Raises SourceRefused for what is not a query."""
    first: str | None = None
    previous, end = "", 0
    for part in _parts(query):
        word, end = part[0].lower(), part.end()
        if first is None and word != "(":
            first = word
        if previous == "into" and word in _TO_FILE:
            first = ""
            break
        previous = word
    if first not in _READS:
        raise query_refused("This is not a query that only reads.", received=query)
    return query[:end]


def query_refused(detail: str, *, received: str | None = None, fix: str | None = None) -> SourceRefused:
    """Return the refusal of a query."""
    problem = Problem(
        detail,
        POINTER,
        received=received[:120] if received else None,
        expected="one SELECT (or WITH, VALUES, TABLE)",
        fix=fix,
    )
    return SourceRefused(detail, problems=[problem])


def order_notice(query: str) -> list[Notice]:
    """Return a notice if the rows of a query have no order."""
    depth, previous, ordered = 0, "", False
    for part in _parts(query):
        word = part[0].lower()
        depth += (word == "(") - (word == ")")
        ordered |= depth == 0 and previous == "order" and word == "by"
        previous = word
    if ordered:
        return []
    return [
        Notice(
            code="no_order",
            message="The query has no ORDER BY: its rows are in the order in which the database gave them.",
            evidence="the same rows in another order are other content, and another split",
            option="add ORDER BY to the query",
        )
    ]
