"""The interface of a destination, the parts written to it, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from fitserve.errors import BadInput, Problem, Unavailable

ATTEMPTS = 6  # with pauses of 0.5 to 8 seconds between them


class DestinationRefused(BadInput):
    """The destination does not take the predictions, and another attempt will not help."""

    slug = "destination-refused"
    title = "Destination refused"


class DestinationAway(Unavailable):
    """A destination does not answer, or its connection broke."""

    slug = "destination-away"
    title = "Destination unavailable"


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A stored part of the predictions or of an import: a blob that never changes once a run has recorded it."""

    number: int
    rows: int
    blob: str
    bytes: int

    def as_entry(self, name: str) -> dict[str, Any]:
        """Return the part's entry in a manifest."""
        # Prefixed with the algorithm: garbage collection takes a bare digest in a run's result for a reference to keep.
        return {"name": name, "rows": self.rows, "bytes": self.bytes, "sha256": f"sha256:{self.blob}"}


class DestinationTarget(Protocol):
    """The destination of one run. Every call can be repeated, also by other workers; calls never overlap."""

    def prepare(self, schema: pa.Schema) -> None:
        """Check that the rows can be written, and make room for them. Raises DestinationRefused, DestinationAway."""

    def write(self, part: StoredPart, path: Path) -> None:
        """Write a part from its local Parquet file; repeated calls write it once."""

    def finish(self, parts: Sequence[StoredPart], about: Mapping[str, Any]) -> dict[str, Any]:
        """Publish all parts atomically. Returns the entry for the run's result."""

    @property
    def leftovers(self) -> str:
        """A description of what an unpublished run leaves behind."""

    def discard(self) -> list[str]:
        """Remove unpublished data. Returns a description of what remains, namely published rows.

        Raises DestinationRefused, DestinationAway.
        """


def refused(kind: str, detail: str, *, key: str = "", fix: str | None = None, **extra: Any) -> DestinationRefused:
    """Return a refusal that points at the destination's member `key`."""
    pointer = f"/destination/{kind}" + (f"/{key}" if key else "")
    return DestinationRefused(detail, fix=fix, problems=[Problem(detail, pointer, fix=fix, **extra)])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a column is written: one that databases and files share."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_unsigned_integer(kind) or pa.types.is_int8(kind):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[kind.bit_width]
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return kind


def plain(table: pa.Table) -> pa.Table:
    """Return a table whose columns have plain types."""
    return table.cast(pa.schema([pa.field(one.name, plain_type(one.type)) for one in table.schema]), safe=False)
