"""The spec's key `interval`: which prediction intervals and sets a version returns."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from fitserve.data_model import DataModel
from fitserve.excerpts import excerpt
from fitserve.spec.argument_types import Inside
from fitserve.validation import InvalidValue

MAX_LEVELS = 10
GAMMA = 0.005
_LEVEL: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
LEVELS: dict[str, Any] = {"anyOf": [_LEVEL, {"type": "array", "items": _LEVEL, "minItems": 1, "maxItems": MAX_LEVELS}]}


def check_level(level: Any) -> Any:
    """Return a level as it is. Raises InvalidValue unless it is a number between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        detail = "The level of an interval is a share of the rows between 0 and 1."
        raise InvalidValue(detail, received=excerpt(level), expected="a number above 0 and below 1, such as 0.9")
    return level


def _read_levels(value: Any) -> Any:
    levels = value if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(levels) <= MAX_LEVELS:
        detail = f"An interval has 1 to {MAX_LEVELS} levels."
        raise InvalidValue(detail, received=len(levels), expected="a level such as 0.9, or several")
    for index, level in enumerate(levels):
        try:
            check_level(level)
        except InvalidValue as error:
            raise (error.under(index) if levels is value else error) from None
    return tuple(map(float, levels))


Levels = Annotated[tuple[float, ...], BeforeValidator(_read_levels), WithJsonSchema(LEVELS)]


class Adaptive(DataModel):
    """Adaptive conformal inference (Gibbs and Candes 2021): ground truth adjusts the level.

    After a truth outside the interval, the targeted error rate falls by `gamma` times the level; after one inside, it
    rises by `gamma` times the requested error rate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gamma: Annotated[Inside, Field(le=0.5)] = Field(GAMMA, description="The step; larger ones follow a change sooner")


def _switch(value: Any) -> Any:
    # `true` and `false`.
    return ({} if value else None) if isinstance(value, bool) else value


class Interval(DataModel):
    """Prediction intervals (numbers) and sets (labels) that a version returns if a request gives no level."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Levels = Field(
        description="Share of the rows whose truth is to be inside; of several, the first answers, each is evaluated"
    )
    adaptive: Annotated[Adaptive | None, BeforeValidator(_switch)] = Field(
        None, description="Whether ground truth moves the level that answers; true: see its defaults"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        # `0.9` and `[0.9, 0.5]`.
        return value if isinstance(value, (dict, cls)) else {"level": value}

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.level)) != len(self.level):
            raise ValueError("a level is named twice")
        return self
