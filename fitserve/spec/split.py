"""How rows are divided into training, validation and test parts: a part of the spec."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Method = Literal["random", "stratified", "time", "group", "column"]


class SplitSpec(BaseModel):
    """Shares of the rows, and how rows are drawn. The test part is never seen in training.

    - random: rows are shuffled by the seed.
    - stratified: the same, with each label of `by` in its share (regression targets: in ten bins by rank).
    - time: ordered by the column `by`; the oldest rows train, the newest are the test part.
    - group: rows that share a value of `by` stay together.
    - column: `by` says for each row `train`, `validation` or `test` (also `training`, `val`, `valid`, `dev`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "random"
    validation: float = Field(default=0.2, ge=0, lt=1, description="Share of all rows for validation")
    test: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of all rows kept from training for the evaluation",
    )
    by: str | None = Field(default=None, description="The column of a stratified, time, group or column split")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        """`stratified`, or `{time: {by: day, test: 0.1}}`, are understood too."""
        methods = ("random", "stratified", "time", "group", "column")
        if isinstance(value, str):
            return {"method": value}
        if isinstance(value, dict) and len(value) == 1:
            ((key, inner),) = value.items()
            if key in methods and isinstance(inner, dict) and "method" not in inner:
                return {"method": key, **inner}
            if key in methods and isinstance(inner, str):
                return {"method": key, "by": inner}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave rows for training: their sum is below 1")
        if self.method in ("time", "group", "column") and self.by is None:
            raise ValueError(f"a {self.method} split needs `by`, the name of a column")
        if self.method == "random" and self.by is not None:
            raise ValueError("a random split takes no `by`; did you mean `stratified`, `time` or `group`?")
        return self
