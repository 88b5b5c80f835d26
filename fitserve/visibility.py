"""Who may see, use and change what: its owner and admins everything, other owners what is shared with them.

`owner` says whose things a caller sees: one owner's, or, where it is None, everybody's, as an admin does. Datasets and
runs are shared to be read; a model is shared for a use (`SHARING`), which includes those before it.
"""

from __future__ import annotations

from typing import Any, Protocol, get_args

from sqlalchemy import ColumnElement, or_, true

from fitserve.errors import Forbidden
from fitserve.tables import Model
from fitserve.wire.models import Sharing

SHARING: tuple[str, ...] = get_args(Sharing)


class OwnedTable(Protocol):
    """A table whose rows belong to owners."""

    owner: Any


class SharedTable(OwnedTable, Protocol):
    """A table whose rows owners can share."""

    shared: Any


class Owned(Protocol):
    """A row that belongs to an owner."""

    @property
    def owner(self) -> str: ...


class Shareable(Owned, Protocol):
    """A row that its owner can share."""

    @property
    def shared(self) -> bool: ...


def owned_by(table: type[OwnedTable], owner: str | None) -> ColumnElement[bool]:
    """Return the condition that a row is the owner's."""
    return true() if owner is None else table.owner == owner


def visible_to(table: type[SharedTable], owner: str | None) -> ColumnElement[bool]:
    """Return the condition that a row is the owner's or shared."""
    return true() if owner is None else or_(table.owner == owner, table.shared.is_(True))


def owns(owner: str | None, row: Owned) -> bool:
    """Return whether a row is the owner's, who may change it."""
    return owner is None or row.owner == owner


def sees(owner: str | None, row: Shareable) -> bool:
    """Return whether a row is the owner's or shared."""
    return owns(owner, row) or row.shared is True


def sharing(model: Model) -> str | None:
    """Return what other owners may do with a model, one of SHARING; None where it is private."""
    return (model.sharing or SHARING[0]) if model.shared else None


def is_shared_to(shared_to: str | None, use: str) -> bool:
    """Return whether a model that is shared for `shared_to` is also shared for `use`."""
    return shared_to is not None and SHARING.index(use) <= SHARING.index(shared_to)


def may_use(owner: str | None, model: Model, use: Sharing) -> bool:
    """Return whether the owner may use a model in that way."""
    return owns(owner, model) or is_shared_to(sharing(model), use)


def check_use(owner: str | None, model: Model, use: Sharing, pointer: str | None = None) -> None:
    """Raise Forbidden unless the owner may use a model that they see in that way."""
    if not may_use(owner, model, use):
        raise Forbidden(
            f"The model {model.name} is shared with you to {sharing(model)}, not to {use} it.",
            pointer=pointer,
            fix=f"Ask its owner: fitserve models share {model.name} --to {use}",
        )
