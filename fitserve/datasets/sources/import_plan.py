"""The plan that divides an import of many objects into parts, and the stored form of a part that was read."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from fitserve.blobs import BlobStore, Corrupt, StoredBlob
from fitserve.datasets.sources.objects import SIDE_BY_SIDE, ListedObject, Listing
from fitserve.datasets.sources.part_files import PartTable
from fitserve.errors import NotFound
from fitserve.settings import MB

PART_BYTES = 64 * MB  # bytes of one part: large compared with its overhead of a lease, a few transactions and two files
PART_OBJECTS = 4 * SIDE_BY_SIDE
MAX_PARTS = 500  # most parts; beyond that, parts get larger


@dataclass(frozen=True)
class ImportPlan:
    """The objects of one listing divided into parts, which are numbered from `first`.

    A changed source is listed again, and the new plan's numbers continue after the old plan's, so that an old part is
    never mistaken for a new one.
    """

    listing: Listing
    parts: Sequence[Sequence[ListedObject]]
    first: int = 0

    @classmethod
    def of(cls, listing: Listing, first: int = 0) -> ImportPlan:
        """Divide a listing: neighbours share a part until it is large enough."""
        size = max(PART_BYTES, listing.bytes / MAX_PARTS)
        most = max(PART_OBJECTS, -(-len(listing.objects) // MAX_PARTS))
        parts: list[list[ListedObject]] = []
        held = 0
        for one in listing.objects:
            if not parts or held + one.bytes > size or len(parts[-1]) >= most:
                parts.append([])
                held = 0
            parts[-1].append(one)
            held += one.bytes
        return cls(listing, parts, first)

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.parts))

    def objects_of(self, number: int) -> Sequence[ListedObject] | None:
        """Return a part's objects; None for a number of another plan."""
        return self.parts[number - self.first] if number in self.numbers else None

    def bytes_of(self, number: int) -> int:
        return sum(one.bytes for one in self.objects_of(number) or ())

    def to_json(self) -> bytes:
        return json.dumps({"first": self.first, "parts": self.parts}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ImportPlan:
        body = json.loads(data)
        parts = [[ListedObject(*one) for one in part] for part in body["parts"]]
        return cls(Listing([one for part in parts for one in part]), parts, body["first"])


@dataclass(frozen=True)
class StoredTables:
    """The stored form of a part that was read: a blob with a list, and the blobs of the files in it."""

    listed: StoredBlob
    files: Sequence[StoredBlob]
    expanded: int  # bytes of the part's objects once unpacked


def store_tables(blobs: BlobStore, tables: Sequence[PartTable]) -> StoredTables:
    """Store the files of a part's objects, and a list of them."""
    files = [blobs.put_file(table.local()) for table in tables]
    entries = [
        {
            "name": table.name,
            "sha256": table.sha256,
            "bytes": table.bytes,
            "format": table.format,
            "schema": base64.b64encode(table.schema.serialize().to_pybytes()).decode(),
            "expanded": table.expanded,
            "rejected": table.rejected,
            "first_rejected": table.first_rejected,
            "blob": file.sha256,
            "blob_bytes": file.bytes,
        }
        for table, file in zip(tables, files, strict=True)
    ]
    return StoredTables(blobs.put_bytes(json.dumps(entries).encode()), files, sum(table.expanded for table in tables))


def find_tables(blobs: BlobStore, sha256: str) -> StoredTables | None:
    """Return a stored part; None if any of its blobs no longer exists."""
    data = _read(blobs, sha256)
    return None if data is None else _stored_tables(blobs, sha256, data)


def load_tables(blobs: BlobStore, sha256: str, cache: Path, *, verify: bool = False) -> list[PartTable] | None:
    """Return a stored part's tables; None if any of its blobs no longer exists.

    With `verify`, also None if a blob is damaged; otherwise files are verified only when the tables are read.
    """
    data = _read(blobs, sha256)
    stored = None if data is None else _stored_tables(blobs, sha256, data)
    if data is None or stored is None:
        return None
    if verify:
        try:
            for file in stored.files:
                blobs.local(file.sha256, cache)
        except (NotFound, Corrupt):
            return None
    return [
        PartTable(
            entry["name"],
            entry["sha256"],
            entry["bytes"],
            entry["format"],
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry["schema"]))),
            entry["expanded"],
            partial(blobs.local, entry["blob"], cache),
            entry["rejected"],
            entry["first_rejected"],
        )
        for entry in json.loads(data)
    ]


def _read(blobs: BlobStore, sha256: str) -> bytes | None:
    try:
        return blobs.read(sha256)
    except (NotFound, Corrupt):
        return None


def _stored_tables(blobs: BlobStore, sha256: str, data: bytes) -> StoredTables | None:
    entries: list[dict[str, Any]] = json.loads(data)
    files = [StoredBlob(entry["blob"], entry["blob_bytes"]) for entry in entries]
    if not all(blobs.exists(file.sha256) for file in files):
        return None
    return StoredTables(StoredBlob(sha256, len(data)), files, sum(entry["expanded"] for entry in entries))
