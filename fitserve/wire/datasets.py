"""Datasets in requests and responses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.dataset_facts import ColumnFacts, Kind
from fitserve.ids import NAME_PATTERN
from fitserve.parsing.column_format import ColumnFormat
from fitserve.wire.notices import Notice

CHARACTER = r"^[\t\x20-\x7E]$"  # printable ASCII, or a tab
NO_CHARACTER = "none"
CHARACTER_OR_NONE = rf"^([\t\x20-\x7E]|{NO_CHARACTER})$"
Format = Literal["csv", "jsonl", "parquet", "arrow"]
# File suffixes of each format, with the media types that the client sends
SUFFIXES: dict[Format, dict[str, str]] = {
    "csv": {"csv": "text/csv", "tsv": "text/tab-separated-values", "txt": "text/csv"},
    "jsonl": {**dict.fromkeys(("jsonl", "ndjson"), "application/x-ndjson"), "json": "application/octet-stream"},
    "parquet": dict.fromkeys(("parquet", "pq"), "application/vnd.apache.parquet"),
    "arrow": dict.fromkeys(("arrow", "feather", "ipc"), "application/vnd.apache.arrow.file"),
}
Compression = Literal["gzip", "zstd"]
COMPRESSION_SUFFIXES = ("gz", "gzip", "zst", "zstd")  # the server recognises compression by the bytes


class UploadOptions(DataModel):
    """How to read an upload; omitted options are detected. The same content and options make the same dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format | None = Field(None, description="Recognised by the content if omitted")
    delimiter: str | None = Field(None, pattern=CHARACTER, description="CSV: the field delimiter")
    quote: str | None = Field(
        None,
        pattern=CHARACTER_OR_NONE,
        description="CSV: the quote character, doubled inside a quoted field; none: no field is quoted",
    )
    decimal: Literal[".", ","] | None = Field(None, description="CSV: the decimal sign, in every column")
    thousands: Literal["", ",", ".", " ", "'", "_"] | None = Field(
        None, description="CSV: the sign between groups of three digits, in every column"
    )
    dates: Literal["ymd", "dmy", "mdy"] | None = Field(
        None, description="Order of day, month and year in dates that are all numbers"
    )
    formats: dict[str, ColumnFormat] = Field(
        default_factory=dict, description="How single columns are written, by name, instead of detecting it"
    )
    encoding: str | None = Field(None, max_length=40, description="The text encoding, such as gb18030 or latin-1")
    header: bool | None = Field(None, description="CSV: whether the first line names the columns")
    skip_rows: int | None = Field(None, ge=0, le=100_000, description="CSV: lines before the table; 0: none")
    footer: int | None = Field(None, ge=0, le=100_000, description="CSV: lines after the table; 0: none")
    comment: str | None = Field(
        None,
        pattern=CHARACTER_OR_NONE,
        description="CSV: the comment sign: lines that begin with it are skipped; none: there are no comments",
    )
    kinds: dict[str, Kind] = Field(default_factory=dict, description="Kinds of columns, by name")
    missing: tuple[str, ...] | None = Field(None, description="Spellings of a missing value, instead of the usual ones")
    lenient: bool = Field(False, description="Leave bad rows out and report them, instead of refusing the upload")

    @model_validator(mode="after")
    def _check_characters(self) -> UploadOptions:
        characters = [one for one in (self.delimiter, self.quote, self.comment) if one not in (None, NO_CHARACTER)]
        if len(set(characters)) < len(characters):
            raise ValueError("A delimiter, a quote and the mark of a comment are different characters.")
        if self.decimal is not None and self.decimal == self.thousands:
            raise ValueError("The decimal sign and the thousands sign are two different characters.")
        for name, format in self.formats.items():
            kind = self.kinds.get(name)
            if kind is not None and format.kinds is not None and kind not in format.kinds:
                raise ValueError(f"The format of {name!r} is for {' or '.join(format.kinds)}; its kind is {kind}.")
        return self


class Column(ColumnFacts):
    """A column with its kind and the evidence for it."""

    inferred: Kind


class Refused(DataModel):
    """Rows or values that a lenient upload left out or fixed."""

    rows: int = Field(description="Rows left out")
    problems: list[dict[str, Any]] = Field(description="The first of them (at most 20)")


class DatasetInfo(DataModel):
    """One version of a dataset."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    version: int
    owner: str
    sha256: str
    parent_id: str | None
    rows: int
    bytes: int
    shared: bool
    source: dict[str, Any]
    refused: Refused | None
    notices: list[Notice] = Field(
        default_factory=list, description="What was decided while it was read, and which option decides otherwise"
    )
    created_at: datetime


class DatasetDetail(DatasetInfo):
    """A dataset with its columns."""

    columns: list[Column] = Field(
        description="Of a column with many `labels` the most frequent ones, at least 8 and at most 100, fewer where "
        "there are many columns; `distinct` counts all. `/datasets/{ref}/columns` has the whole lists"
    )


class StagedInfo(DataModel):
    """Rows that wait to be appended to a dataset as one version."""

    name: str
    batches: int
    rows: int
    oldest_at: datetime | None = Field(None, description="When the first of them came")


class DatasetPage(DataModel):
    """A page of datasets, the newest first."""

    items: list[DatasetInfo]
    next_cursor: str | None


class RowsPage(DataModel):
    """A page of rows, in the table's order: `rows[i][j]` is column j; null is missing."""

    columns: list[str]
    rows: list[list[Any]]
    offset: int
    total: int
    next_cursor: str | None


class Profile(DataModel):
    """Each column's profile by its name. Counts, moments and top values cover all rows, the rest `sampled_rows`."""

    rows: int
    sampled_rows: int
    columns: dict[str, dict[str, Any]]
    next_cursor: str | None = Field(None, description="Pass as `cursor` to get the next columns; null after the last")


class Relation(DataModel):
    """How one column relates to the target: `strength` from 0 (not at all) to 1 (predicts it exactly)."""

    column: str
    measure: Literal["spearman", "correlation_ratio", "cramers_v", "token_cramers_v"]
    strength: float
    direction: float | None = Field(None, description="Sign and size of a monotone relation, from -1 to 1")
    rows: int
    warning: str | None = None


class Relations(DataModel):
    """Columns and how they relate to a target, the strongest first."""

    target: str
    sampled_rows: int
    items: list[Relation]


class DatasetPatch(DataModel):
    """Correct the kinds of columns (which creates a new version), or share the dataset."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kinds: dict[str, Kind] | None = Field(None, min_length=1)
    shared: bool | None = None


class SampleRequest(DataModel):
    """A built-in table. `noise` (0 to 50), `rows` and `derived` apply to the Playground's six."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sample: str = Field(max_length=63)
    name: str | None = Field(None, pattern=NAME_PATTERN)
    noise: float = Field(0, ge=0, le=50)
    rows: int | None = Field(None, ge=10, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**32)
    derived: bool = Field(
        False,
        description="The Playground's other features too (x1_squared, x2_squared, x1_x2, sin_x1, sin_x2), and `draw`, "
        "a random number to split by: {time: {by: draw}}",
    )


class SampleInfo(DataModel):
    """A built-in table."""

    sample: str
    task: Literal["classification", "regression"]
    title: str
    target: str
    rows: int
    noise: bool
