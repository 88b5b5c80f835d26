"""How the texts of a column are parsed: a plan, proposed from a sample and checked against every row."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from fitserve.dataset_facts import Kind, Storage
from fitserve.parsing import ColumnFormat, TimeFormat
from fitserve.parsing.column_format import PLAIN
from fitserve.wire.notices import Notice

SHARE = 0.95  # of a column's values that must be numbers, or times
MOSTLY = 0.75  # of a column of texts that are numbers: a notice says why it stays text
HALF = 0.5
_ARROW_TYPES: dict[Storage, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us"),
}
_EXPECTED: dict[Storage, str] = {
    "int64": "a number",
    "float64": "a number",
    "bool": "a boolean",
    "timestamp": "a date or time",
    "string": "a text",
}


@dataclass(frozen=True)
class ColumnPlan:
    """How a column's texts are parsed."""

    storage: Storage
    format: ColumnFormat = PLAIN
    zoned: bool = False  # times name their zone
    trim: bool = False  # blanks around a value mean nothing
    soft_missing: bool = False  # the texts of `parsing.missing.SOFT_MISSING` are missing
    strict: bool = False  # values that do not fit are refused instead of changing the plan
    typed: bool = False  # values have a type already (Parquet, Arrow) and keep it
    quoted: bool = False  # the reader has taken care of unquoted spellings of missing: what is left was quoted
    stated_kind: Kind | None = None  # as the request says
    stated: ColumnFormat = PLAIN  # as the request says
    prior: FilePrior | None = field(default=None, compare=False, repr=False)
    open_decimal: bool = field(default=False, compare=False)  # no value proves the decimal sign
    open_order: bool = field(default=False, compare=False)  # no value proves the order of day and month
    evidence: str = field(default="", compare=False)
    notices: tuple[Notice, ...] = field(default=(), compare=False)

    @property
    def arrow_type(self) -> pa.DataType:
        if self.storage == "timestamp" and self.zoned:
            return pa.timestamp("us", "UTC")
        return _ARROW_TYPES[self.storage]

    @property
    def expected(self) -> str:
        """What a value should have been, for an error message."""
        return "a boolean" if self.stated_kind == "boolean" else _EXPECTED[self.storage]


@dataclass(frozen=True)
class FilePrior:
    """What the request states for the whole file, and what one column says about another."""

    decimal: str | None = None  # as the request says
    thousands: str | None = None
    order: TimeFormat | None = None
    european: bool = False  # fields are not separated by commas, so that a comma may be a decimal sign
    proven_decimal: str | None = None  # by other columns
    decimal_proof: str = ""
    proven_order: TimeFormat | None = None
    order_proof: str = ""
