"""How a source of many objects is divided, and what is stored of a part that was read, for whoever joins all parts."""

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

from fitserve.blobs import BlobStore, StoredBlob
from fitserve.datasets.sources.objects import SIDE_BY_SIDE, ListedObject, Listing
from fitserve.datasets.sources.part_files import PartTable
from fitserve.settings import MB

PART_BYTES = 64 * MB  # of one part: a lease, a few transactions and two files of its own are little beside it
PART_OBJECTS = 4 * SIDE_BY_SIDE
MAX_PARTS = 500  # beyond which parts are larger


@dataclass(frozen=True)
class ImportPlan:
    """The objects of one listing in parts, which are numbered from `first`.

    A source that changed is listed again, and the new plan's numbers follow those of the old one: nothing of a part of
    the old one is taken for one of the new.
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


def store_tables(blobs: BlobStore, tables: Sequence[PartTable]) -> tuple[StoredBlob, list[StoredBlob]]:
    """Store the files of a part's objects, and a list of them. Return both."""
    files = [blobs.put_file(table.local()) for table in tables]
    entries = [
        {
            "name": table.name,
            "sha256": table.sha256,
            "bytes": table.bytes,
            "format": table.format,
            "schema": base64.b64encode(table.schema.serialize().to_pybytes()).decode(),
            "rejected": table.rejected,
            "first_rejected": table.first_rejected,
            "blob": file.sha256,
        }
        for table, file in zip(tables, files, strict=True)
    ]
    return blobs.put_bytes(json.dumps(entries).encode()), files


def load_tables(blobs: BlobStore, sha256: str, cache: Path) -> list[PartTable] | None:
    """Return a part as it was stored; None where a file is not there any more. Raises NotFound, Corrupt."""
    entries: list[dict[str, Any]] = json.loads(blobs.read(sha256))
    if not all(blobs.exists(entry["blob"]) for entry in entries):
        return None
    return [
        PartTable(
            entry["name"],
            entry["sha256"],
            entry["bytes"],
            entry["format"],
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry["schema"]))),
            partial(blobs.local, entry["blob"], cache),
            entry["rejected"],
            entry["first_rejected"],
        )
        for entry in entries
    ]
