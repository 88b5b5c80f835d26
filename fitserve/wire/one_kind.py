"""A choice among kinds, written as an object with one member: `{"sql": {...}}`."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import ConfigDict, model_validator

from fitserve.data_model import DataModel


class OneKind(DataModel):
    """Base class of such a choice: a subclass has a member for each kind, and names the choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: ClassVar[str]

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if len(self.model_fields_set) != 1 or self.stated is None:
            raise ValueError(f"{self.what} has exactly one of {', '.join(type(self).model_fields)}.")
        return self

    @property
    def kind(self) -> str:
        """The member's name, such as `sql`."""
        return next(iter(self.model_fields_set))

    @property
    def stated(self) -> Any:
        """The chosen member's value."""
        return getattr(self, self.kind, None)
