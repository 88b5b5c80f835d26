"""Queries: what is one, what it gives, and how it is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fitserve.datasets.sources.connections import SourceRefused
from fitserve.errors import Problem
from fitserve.wire.notices import Notice

_SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)"
_READS = re.compile(rf"(?:{_SPACE}|\()*(select|with|values|table)\b", re.IGNORECASE | re.DOTALL)
_TO_FILE = re.compile(r"\binto\s+(outfile|dumpfile)\b", re.IGNORECASE)
_END = re.compile(rf"(?:{_SPACE}|;)*\Z", re.DOTALL)
_ORDERED = re.compile(r"\border\s+by\b[^()]*(?:\([^()]*\)[^()]*)*\Z", re.IGNORECASE)
POINTER = "/source/sql/query"


@dataclass
class QueryResult:
    """An open query."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    snapshot: dict[str, Any]
    notices: list[Notice] = field(default_factory=list)


def checked_query(query: str) -> str:
    """Return a query without the semicolon at its end. Raises SourceRefused for what is not a query."""
    if not _READS.match(query) or _TO_FILE.search(query):
        raise query_refused("This is not a query that only reads.", received=query)
    end = _END.search(query)
    return query[: end.start()] if end else query


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
    """Return what to know about a query whose rows have no order."""
    if _ORDERED.search(query):
        return []
    return [
        Notice(
            code="no_order",
            message="The query has no ORDER BY: its rows are in the order in which the database gave them.",
            evidence="the same rows in another order are other content, and another split",
            option="add ORDER BY to the query",
        )
    ]
