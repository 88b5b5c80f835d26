"""What is written to a destination, and the errors of one that refuses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from fitserve.errors import BadInput, Problem, Unavailable

ATTEMPTS = 6  # with pauses of half a second to eight between them


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
    """A part of the predictions, or of an import: a blob, whose bytes stay what they are once a run has recorded it."""

    number: int
    rows: int
    blob: str
    bytes: int

    def as_entry(self, name: str) -> dict[str, Any]:
        """Return the part's entry in a manifest."""
        # The algorithm's name before it: a bare digest in a run's result would keep the blob indefinitely.
        return {"name": name, "rows": self.rows, "bytes": self.bytes, "sha256": f"sha256:{self.blob}"}


class DestinationTarget(Protocol):
    """A destination of one run. Every call may be repeated, by other workers too; none is interrupted by another."""

    def prepare(self, schema: pa.Schema) -> None:
        """Check that the rows can be written, and make room for them. Raises DestinationRefused, DestinationAway."""

    def write(self, part: StoredPart, path: Path) -> None:
        """Write a part, whose Parquet file is local, once however often it is asked for."""

    def finish(self, parts: Sequence[StoredPart], about: Mapping[str, Any]) -> dict[str, Any]:
        """Publish all parts at once. Returns what the run's result says about it."""

    @property
    def leftovers(self) -> str:
        """What an unpublished run leaves, in words."""

    def discard(self) -> list[str]:
        """Remove what was written and not published. Return what remains: rows that were published, in words.

        Raises DestinationRefused, DestinationAway.
        """


def refused(kind: str, detail: str, *, key: str = "", fix: str | None = None, **extra: Any) -> DestinationRefused:
    """Return a refusal that points at the destination's member `key`."""
    pointer = f"/destination/{kind}" + (f"/{key}" if key else "")
    return DestinationRefused(detail, fix=fix, problems=[Problem(detail, pointer, fix=fix, **extra)])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column is written as: one that databases and files both have."""
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
