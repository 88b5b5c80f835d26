"""Facts about a dataset, against which specs are checked and from which encoded widths are counted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.errors import NotFound
from fitserve.parsing.column_format import PLAIN, ColumnFormat

Kind = Literal["numeric", "boolean", "categorical", "text", "datetime", "ignored"]
Storage = Literal["int64", "float64", "bool", "string", "timestamp"]
Tokens = Literal["whitespace", "character"]

MAX_LABELS = 1000  # a column with more distinct values than this lists none of them


class ColumnFacts(DataModel):
    """One column, over all its rows.

    `labels` are the distinct values as text, sorted (numbers by their value; a boolean's false comes first), with
    `label_counts` beside them; None above `MAX_LABELS`. `min`, `max`, `mean`, `std` (population) are of finite numbers,
    or of seconds since 1970 in UTC for a datetime. `max_tokens` is the number of tokens of the longest value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    storage: Storage
    rows: int
    missing: int = 0
    infinite: int = 0
    distinct: int = 0
    distinct_exact: bool = True
    labels: tuple[str, ...] | None = None
    label_counts: tuple[int, ...] | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    date_only: bool = False  # a datetime column without times of day
    tokens: Tokens = "whitespace"
    max_tokens: int | None = None
    format: ColumnFormat = PLAIN  # how its texts are parsed, at upload and in predictions
    evidence: str = ""  # why the column has this kind

    @classmethod
    def from_stored(cls, column: Mapping[str, Any]) -> ColumnFacts:
        """Return the facts of a column as a dataset stores it (wire.Column)."""
        return cls.model_validate({key: column[key] for key in cls.model_fields if key in column})


class DatasetFacts(DataModel):
    """One version of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    sha256: str
    rows: int
    columns: tuple[ColumnFacts, ...]
    # The delimiter, quote and escape sign of a CSV file, as the dataset's `source` has them.
    csv: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, ColumnFacts]:
        """The columns by name."""
        return {column.name: column for column in self.columns}

    def column(self, name: str) -> ColumnFacts:
        """Return one column's facts. Raises NotFound."""
        if name not in self.by_name:
            raise NotFound(
                f"The dataset {self.name}@{self.version} has no column {name!r}.",
                received=name,
            )
        return self.by_name[name]
