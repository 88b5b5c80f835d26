"""One page of a list."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some items, and where the next ones are."""

    items: list[Item]
    next_cursor: str | None = Field(None, description="Pass as `cursor` for the next page; null on the last one")
