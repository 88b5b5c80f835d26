"""Imports: fetch a table to local disk, and make a dataset of it as an upload does.

Nothing is stored before the whole table has arrived, so an import that breaks off leaves no partial dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from fitserve import db, telemetry
from fitserve.blobs import BlobStore
from fitserve.datasets import store
from fitserve.datasets.sources import connections, delta, https, objects, sql
from fitserve.datasets.sources.fetched import Fetched, Place, Unchanged, try_again
from fitserve.errors import BadInput, FitserveError
from fitserve.outgoing import Outgoing
from fitserve.settings import Settings
from fitserve.tables import Dataset
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.sources import Source


@dataclass(frozen=True)
class Importer:
    """Imports sources as datasets of one owner."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    owner: str

    def fetch(self, source: Source, folder: Path, options: UploadOptions, known: dict[str, Any] | None) -> Fetched:
        """Fetch a source to local disk, in several attempts. Raises BadInput, SourceAway, TooLarge, Unchanged."""
        place = Place(folder, self.settings.limits, options, known)
        try:
            fetched = try_again(self._fetching(source, place))
        except Unchanged:
            telemetry.IMPORTS.labels(source.kind, "unchanged").inc()
            raise
        except FitserveError as error:
            telemetry.IMPORTS.labels(source.kind, "refused" if isinstance(error, BadInput) else "failed").inc()
            raise
        telemetry.IMPORTS.labels(source.kind, "fetched").inc()
        telemetry.IMPORT_BYTES.labels(source.kind).inc(fetched.bytes)
        return fetched

    def _fetching(self, source: Source, place: Place) -> Callable[[], Fetched]:
        """Return a function that fetches a source once. Raises BadInput for an unknown connection."""
        stated, kind = source.stated, source.kind
        connection = None
        if stated.connection is not None:
            connection = connections.find(self.settings, stated.connection, kind, self.owner)
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
        return store.create(
            self.engine,
            self.blobs,
            store.ReceivedFile(fetched.path, fetched.sha256, fetched.bytes, fetched.stem),
            owner=self.owner,
            options=options,
            limits=self.settings.limits,
            scratch=self.settings.scratch,
            name=name,
            as_version=True,
            origin={
                "imported": {
                    "from": source.model_dump(mode="json", exclude_unset=True),
                    "snapshot": fetched.snapshot,
                    "at": fetched.at,
                }
            },
            notices=fetched.notices,
            reading=fetched.reading,
        )

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
