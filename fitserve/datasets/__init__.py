"""Tables: parsed with exact errors, understood, profiled, split and encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitserve.datasets.store import create, facts_of, get, open_table

__all__ = ["create", "facts_of", "get", "open_table"]


def __getattr__(name: str) -> Any:
    """The store's operations, loaded when first asked for: the prediction service encodes without a database."""
    if name in __all__:
        from fitserve.datasets import store

        return getattr(store, name)
    raise AttributeError(name)
