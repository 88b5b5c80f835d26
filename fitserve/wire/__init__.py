"""Request and response bodies of the API: one module per noun, as in `services/control`.

A run's spec is `fitserve.spec`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import Field

from fitserve.data_model import DataModel

Item = TypeVar("Item")


class Page(DataModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(None, description="Pass as `cursor` to get the next page; null on the last page")
