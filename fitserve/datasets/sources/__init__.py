"""Imports: fetch a table to local disk, and make a dataset of it as an upload does.

Nothing is stored before the whole table has arrived, so an import that breaks off leaves no partial dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from fitserve import db, telemetry
from fitserve.blobs import BlobStore
from fitserve.datasets import store
from fitserve.datasets.sources import connections, delta, https, objects, part_files, sql
from fitserve.datasets.sources.connections import FILE_SCHEMES
from fitserve.datasets.sources.fetched import Fetched, Place, SourceChanged, Unchanged, never_stop, try_again
from fitserve.datasets.sources.objects import ListedObject, Listing
from fitserve.datasets.sources.part_files import PartTable
from fitserve.datasets.store import NewVersion
from fitserve.errors import BadInput, FitserveError
from fitserve.outgoing import Outgoing
from fitserve.settings import Settings
from fitserve.tables import Dataset
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.sources import Source


@dataclass(frozen=True)
class Importer:
    """Imports sources as datasets of one owner. `raise_if_stopped` is called repeatedly: its error ends the work."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    owner: str
    raise_if_stopped: Callable[[], None] = never_stop

    def fetch(self, source: Source, folder: Path, options: UploadOptions, known: dict[str, Any] | None) -> Fetched:
        """Fetch a source to local disk, in several attempts. Raises BadInput, SourceAway, TooLarge, Unchanged."""
        with self.counted(source):
            fetched = try_again(self._fetching(source, self._place(folder, options, known)))
        self.count_fetched(source, fetched.bytes)
        return fetched

    @contextmanager
    def counted(self, source: Source) -> Iterator[None]:
        """Count an import that the block ends without a table."""
        try:
            yield
        except Unchanged:
            telemetry.IMPORTS.labels(source.kind, "unchanged").inc()
            raise
        except FitserveError as error:
            telemetry.IMPORTS.labels(source.kind, "refused" if isinstance(error, BadInput) else "failed").inc()
            raise

    def count_fetched(self, source: Source, size: int) -> None:
        """Count an import whose table has arrived."""
        telemetry.IMPORTS.labels(source.kind, "fetched").inc()
        telemetry.IMPORT_BYTES.labels(source.kind).inc(size)

    def listing(self, source: Source) -> Listing | None:
        """Return the objects of a store of files that a source names; None for a source of another kind.

        Raises BadInput, also for an unknown connection, SourceAway, TooLarge.
        """
        connection = self._connection(source)
        if source.kind not in FILE_SCHEMES:
            return None
        assert connection is not None
        return try_again(lambda: objects.list_objects(source.kind, source.stated, connection, self.settings.limits))

    def is_large(self, listing: Listing) -> bool:
        """Return whether a run imports these objects, unless the request says otherwise."""
        most = self.settings.import_run_bytes
        return most > 0 and (listing.bytes >= most or len(listing.objects) >= self.settings.import_run_parts)

    def read_objects(
        self, source: Source, folder: Path, options: UploadOptions, listed: Sequence[ListedObject]
    ) -> list[PartTable]:
        """Fetch and read some of a listing's objects. Raises BadInput, SourceAway, SourceChanged, TooLarge."""
        connection = self._connection(source)
        assert connection is not None
        place = self._place(folder, options, None)
        return try_again(
            lambda: objects.read_objects(source.kind, source.stated, connection, place, listed), final=SourceChanged
        )

    def join(
        self, tables: Sequence[PartTable], folder: Path, options: UploadOptions, snapshot: dict[str, Any]
    ) -> Fetched:
        """Join parts that were read, perhaps by others. Raises BadInput, TooLarge."""
        return part_files.join(tables, self._place(folder, options, None), snapshot)

    def _place(self, folder: Path, options: UploadOptions, known: dict[str, Any] | None) -> Place:
        return Place(folder, self.settings.limits, options, known, self.raise_if_stopped)

    def _connection(self, source: Source) -> connections.NamedConnection | None:
        """Return the connection that a source names. Raises BadInput for one that the owner does not have."""
        name = source.stated.connection
        return None if name is None else connections.find(self.settings, name, source.kind, self.owner)

    def _fetching(self, source: Source, place: Place) -> Callable[[], Fetched]:
        """Return a function that fetches a source once. Raises BadInput for an unknown connection."""
        stated, kind, connection = source.stated, source.kind, self._connection(source)
        if kind == "https":
            outgoing = Outgoing(self.settings.outgoing_networks)
            return lambda: https.fetch(stated, connection, outgoing, place)
        assert connection is not None
        if kind == "sql":
            return lambda: sql.fetch(stated, connection, place)
        if kind == "delta":
            return lambda: delta.fetch(stated, connection, place)
        return lambda: objects.fetch(kind, stated, connection, place)

    def store(self, name: str, source: Source, options: UploadOptions, fetched: Fetched) -> tuple[Dataset, bool]:
        """Make a dataset of what was fetched. Return it, and False if it is the newest version already."""
        received = store.ReceivedFile(fetched.path, fetched.sha256, fetched.bytes, fetched.stem)
        reading = self._upload_arguments(source, options, fetched)
        return store.create(self.engine, self.blobs, received, name=name, as_version=True, **reading)

    def parse(self, name: str, source: Source, options: UploadOptions, fetched: Fetched, folder: Path) -> NewVersion:
        """Read what was fetched, for a version that the caller adds. Raises BadInput, StorageFull."""
        received = store.ReceivedFile(fetched.path, fetched.sha256, fetched.bytes, fetched.stem)
        reading = {**self._upload_arguments(source, options, fetched), "scratch": folder}
        return store.parse(self.blobs, received, name=name, raise_if_stopped=self.raise_if_stopped, **reading)

    def _upload_arguments(self, source: Source, options: UploadOptions, fetched: Fetched) -> dict[str, Any]:
        """Return what `store.create` and `store.parse` take beside the file and its name."""
        return {
            "owner": self.owner,
            "options": options,
            "limits": self.settings.limits,
            "scratch": self.settings.scratch,
            "origin": {
                "imported": {
                    "from": source.model_dump(mode="json", exclude_unset=True),
                    "snapshot": fetched.snapshot,
                    "at": fetched.at,
                }
            },
            "notices": fetched.notices,
            "reading": fetched.reading,
        }

    def imported_from(self, row: Dataset) -> tuple[Source, UploadOptions, dict[str, Any]]:
        """Return a dataset's source, its reading options and its snapshot. Raises BadInput."""
        imported = row.source.get("imported")
        if imported is None:
            raise BadInput(
                f"{row.name} was not imported: it has no source to read again.",
                received=row.name,
                fix="Import it with a source: POST /api/v1/datasets.",
            )
        options = UploadOptions.model_validate(row.source.get("options", {}))
        return Source.model_validate(imported["from"]), options, imported["snapshot"]

    def newest(self, name: str) -> Dataset | None:
        """Return the owner's newest version of a name."""
        with db.reading(self.engine) as session:
            row = store.latest_version(session, name)
            return row if row is not None and row.owner == self.owner else None
