"""What a network learns to say: one output for each target."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fitserve.spec.values import Flag
from fitserve.validation import Refused

Task = Literal["binary", "multiclass", "multilabel", "regression"]
Encoding = Literal["binary", "index", "one_hot", "numbers"]


class Target(BaseModel):
    """One output. In a spec mostly the name of a column; resolved, all of it is written out.

    `encoding` is how the trainer gets it: `binary` 0.0 or 1.0, float32 (rows, columns); `index` int32 (rows,);
    `one_hot` float32 (rows, labels); `numbers` float32 (rows, columns). Label i is `labels[i]`; of a binary target
    `labels[1]` is what 1 means. A multi-label target's labels are its columns, and 1 is that the label is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=255, description="Name of the output; left out: the column")
    columns: tuple[str, ...] = Field(min_length=1, max_length=1000, description="One column; multilabel has several")
    task: Task | None = Field(None, description="Left out: inferred from the column")
    labels: tuple[str, ...] | None = Field(None, description="Of a classification, in order; left out: all, sorted")
    encoding: Encoding | None = Field(None, description="How the trainer gets it; left out: as the loss wants it")
    standardize: Flag | None = Field(
        None,
        description="Train on (y - mean) / standard deviation, undone in predictions; left out: large numbers",
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "columns": (value,)}
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if "column" in value and "columns" not in value:
            value["columns"] = (value.pop("column"),)
        columns = value.get("columns")
        if isinstance(columns, (list, tuple)) and "name" not in value:
            value["name"] = columns[0] if len(columns) == 1 else "labels"
        if "columns" not in value and "name" in value:
            value["columns"] = (value["name"],)
        return value

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.columns) > 1 and self.task not in (None, "multilabel"):
            raise ValueError(f"a {self.task} target has one column; several columns are several targets")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("a column is named twice")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is named twice")
        return self

    @property
    def column(self) -> str:
        """The one column of a target that is not multi-label."""
        return self.columns[0]

    @property
    def units(self) -> int:
        """Of a resolved target: how many numbers it has a row, once encoded (an index counts as its labels)."""
        if self.task == "multiclass":
            return len(self.labels or ())
        return len(self.columns)


MOST = 100  # targets


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) > MOST:
        raise Refused(f"A spec has at most {MOST} targets.", received=len(value), expected=f"at most {MOST}")
    return value if isinstance(value, (list, tuple)) else [value]


Targets = Annotated[tuple[Target, ...], BeforeValidator(_listed), Field(min_length=1)]
