"""How the texts of a column are parsed: a plan, proposed from a sample and checked against every row."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from fitserve.dataset_facts import Kind, Storage
from fitserve.parsing import ColumnFormat, TimeFormat
from fitserve.parsing.column_format import PLAIN
from fitserve.wire.notices import Notice

SHARE = 0.95  # least share of a column's values that must be numbers, or times
MOSTLY = 0.75  # share of numbers in a text column from which a notice explains why it stays text
HALF = 0.5
SEVERAL = 3  # different numbers beside which spellings of missing are missing, however many there are
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
    zoned: bool = False  # times include their zone
    trim: bool = False  # remove blanks around values
    soft_missing: bool = False  # the texts of `parsing.missing.SOFT_MISSING` are missing
    strict: bool = False  # values that do not fit are refused instead of changing the plan
    typed: bool = False  # values have a type already (Parquet, Arrow) and keep it
    quoted: bool = False  # the reader has already replaced unquoted spellings of missing; those that remain were quoted
    stated_kind: Kind | None = None  # as the request says
    stated_format: ColumnFormat = PLAIN  # as the request says
    prior: FilePrior | None = field(default=None, compare=False, repr=False)
    open_decimal: bool = field(default=False, compare=False)  # no value decides what the decimal sign is
    open_order: bool = field(default=False, compare=False)  # no value decides the order of day and month
    evidence: str = field(default="", compare=False)
    notices: tuple[Notice, ...] = field(default=(), compare=False)

    @property
    def arrow_type(self) -> pa.DataType:
        if self.storage == "timestamp" and self.zoned:
            return pa.timestamp("us", "UTC")
        return _ARROW_TYPES[self.storage]

    @property
    def expected(self) -> str:
        """The expected form of a value, for error messages."""
        return "a boolean" if self.stated_kind == "boolean" else _EXPECTED[self.storage]


@dataclass(frozen=True)
class FilePrior:
    """Options for the whole file, and evidence from one column that applies to the others."""

    decimal: str | None = None  # stated by the request
    thousands: str | None = None
    order: TimeFormat | None = None
    european: bool = False  # commas do not separate fields, so one may be a decimal sign
    proven_decimal: str | None = None  # proven by other columns
    decimal_proof: str = ""
    proven_order: TimeFormat | None = None
    order_proof: str = ""
