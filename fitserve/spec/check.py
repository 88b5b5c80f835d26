"""Checks: short runs that test a spec and store no network."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.spec.argument_types import Above0, Flag


class RangeTest(DataModel):
    """A learning-rate range test: batches with a rate that rises from `low` to `high` (Smith 2017)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Above0 = Field(1e-6, description="The first learning rate")
    high: Above0 = Field(10.0, description="The last one, unless the loss explodes before")
    steps: Annotated[int, Field(ge=10, le=10_000, strict=True)] = Field(100, description="Batches")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        return self


def _switch(value: Any) -> Any:
    return {} if value is True else None if value is False else value


class Check(DataModel):
    """The checks that a run performs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    range_test: Annotated[RangeTest | None, BeforeValidator(_switch)] = Field(
        None, description="Which learning rates are worth a try"
    )
    sanity: Flag = Field(
        False,
        description="Whether the network overfits a batch, begins with the loss that it should, learns nothing from "
        "shuffled labels, and something from its inputs",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any(getattr(self, name) for name in CHECKS):
            raise ValueError(f"name what to check: {', '.join(CHECKS)}")
        return self


CHECKS = tuple(Check.model_fields)


def _shorthand(value: Any) -> Any:
    # `sanity`, and `[range_test, sanity]`.
    if isinstance(value, str):
        return {value: True}
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return dict.fromkeys(value, True)
    return value


AnyCheck = Annotated[Check | None, BeforeValidator(_shorthand)]


def most_batches(check: Check) -> int:
    """Return the largest number of batches that the checks may train."""
    rising = check.range_test.steps + 14 * 50 if check.range_test is not None else 0
    return rising + (2 * 1500 + 5 * 200 + 2 * 400 if check.sanity else 0)
