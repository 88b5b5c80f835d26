"""Members of JSON columns in SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, ColumnElement, String, case, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class _IsReadable(GenericFunction[bool]):
    """Whether the database can read members of a JSON column.

    PostgreSQL reads none where any text has a NUL, as texts of rows from before NULs were refused may have.
    """

    type = Boolean()
    inherit_cache = True


@compiles(_IsReadable)
def _always(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "1 = 1"


@compiles(_IsReadable, "postgresql")
def _without_nul(element: Any, compiler: Any, **options: Any) -> str:
    (column,) = element.clauses
    return str(compiler.process(func.strpos(cast(column, String), "\\u0000") == 0, **options))


def where_readable(column: Any, member: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return SQL for a member of a JSON column, NULL where the database cannot read it."""
    return case((_IsReadable(column), member))
