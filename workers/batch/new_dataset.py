"""The default destination of a batch prediction: a new dataset, to be read and downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from fitserve.blobs import BlobStore, sha256_of
from fitserve.datasets import store
from fitserve.datasets.destinations import StoredPart
from fitserve.datasets.parquet_batches import batches_of
from fitserve.settings import Settings
from fitserve.wire.datasets import UploadOptions


@dataclass
class NewDataset:
    """The dataset of one run. Finishing again makes no second one, since equal bytes are the same dataset."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    request: Mapping[str, Any]
    dataset_id: str
    owner: str
    folder: Path
    run: str

    def prepare(self, schema: pa.Schema) -> None:
        """Do nothing: a dataset needs no preparation."""

    def write(self, part: StoredPart, path: Path) -> None:
        """Do nothing: the part is already stored as a blob."""

    leftovers = "nothing"

    def discard(self) -> list[str]:
        """Do nothing: garbage collection deletes unreferenced blobs."""
        return []

    def finish(self, parts: Sequence[StoredPart], about: Mapping[str, Any]) -> dict[str, Any]:
        """Join the parts into one table, and register it as a dataset."""
        path, cache = self.folder / "predictions.parquet", self.settings.scratch / "blobs"
        writer: pq.ParquetWriter | None = None
        try:
            for part in parts:
                with pq.ParquetFile(self.blobs.local(part.blob, cache)) as file:
                    writer = writer or pq.ParquetWriter(path, file.schema_arrow)
                    for batch in batches_of(file, 65_536):
                        writer.write_batch(batch)
        finally:
            if writer is not None:
                writer.close()
        request = self.request
        created, _ = store.create(
            self.engine,
            self.blobs,
            store.ReceivedFile(path, sha256_of(path), path.stat().st_size, f"{request['name']}.parquet"),
            owner=self.owner,
            options=UploadOptions(format="parquet"),
            limits=self.settings.limits,
            scratch=self.settings.scratch,
            name=request["name"],
            as_version=True,
            origin={
                "predicted": {
                    **{name: request[name] for name in ("model", "version")},
                    "run": self.run,
                    "dataset": self.dataset_id,
                    "ref": about["dataset"],
                }
            },
        )
        entries = [part.as_entry(f"part {part.number}") for part in parts]
        return {"dataset": f"{created.name}@{created.version}", "dataset_id": created.id, "parts": entries}
