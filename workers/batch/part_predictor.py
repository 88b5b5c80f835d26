"""Predict one part of a batch prediction, chunk by chunk, into one Parquet blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from fitserve import db
from fitserve.blobs import BlobStore
from fitserve.datasets import store
from fitserve.datasets.destinations import StoredPart, plain
from fitserve.errors import BadInput, NotFound
from fitserve.process_start import cores
from fitserve.settings import Settings
from fitserve.tables import Dataset
from workers.batch.model import ArtifactModel
from workers.batch.rows import in_order, part_chunks, rows_per_part
from workers.side_attempt import Interrupted
from workers.trainer.export.prediction_columns import joined


@dataclass
class PartPredictor:
    """Predicts parts of one dataset with one artifact."""

    settings: Settings
    blobs: BlobStore
    request: Mapping[str, Any]
    dataset: Dataset
    folder: Path
    is_interrupted: Callable[[], bool]
    _schema: pa.Schema | None = field(default=None, init=False)

    @classmethod
    def open(
        cls,
        settings: Settings,
        engine: Engine,
        blobs: BlobStore,
        request: Mapping[str, Any],
        dataset_id: str,
        folder: Path,
        is_interrupted: Callable[[], bool],
    ) -> PartPredictor:
        """Return the predictor of a run. Raises NotFound."""
        with db.reading(engine) as session:
            dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound("The run's dataset is gone.")
        return cls(settings, blobs, request, dataset, folder, is_interrupted)

    @property
    def rows_per_part(self) -> int:
        return int(self.request.get("part_rows") or rows_per_part(self.dataset.rows))

    @property
    def count(self) -> int:
        """Number of parts."""
        return max(1, -(-self.dataset.rows // self.rows_per_part))

    @cached_property
    def table(self) -> Path:
        """The dataset's local Parquet file."""
        return store.local_parquet(self.blobs, self.dataset, self.settings.scratch / "blobs", again=True)

    @cached_property
    def model(self) -> ArtifactModel:
        request = self.request
        decisions, rates = request.get("decisions"), request.get("error_rates")
        return ArtifactModel(self.blobs, request["artifact"], request.get("interval"), decisions, rates)

    def schema(self) -> pa.Schema:
        """Return the columns that all parts have."""
        if self._schema is None:
            self._schema = self._answer(next(part_chunks(self.table, 0, 1)), 0).schema
        return self._schema

    def predict(self, number: int) -> tuple[StoredPart, Path]:
        """Predict a part. Returns it, stored as a blob, and its local file. Raises BadInput, Interrupted."""
        schema, first = self.schema(), number * self.rows_per_part
        last = min(first + self.rows_per_part, self.dataset.rows)
        path = self.folder / f"part-{number}.parquet"
        threads = self.settings.trainer_threads or cores()
        rows = 0
        with pq.ParquetWriter(path, schema) as writer:
            for predicted in in_order(lambda one: self._answer(*one), self._chunks(first, last), threads):
                writer.write_table(predicted.cast(schema))
                rows += predicted.num_rows
        if self.is_interrupted():
            raise Interrupted
        blob = self.blobs.put_file(path)
        return StoredPart(number, rows, blob.sha256, blob.bytes), path

    def _chunks(self, first: int, last: int) -> Iterator[tuple[pa.Table, int]]:
        """Yield a part's rows in chunks, each with the number of its first row, until the attempt is interrupted."""
        at = first
        for chunk in part_chunks(self.table, first, last):
            if self.is_interrupted():
                return
            yield chunk, at
            at += chunk.num_rows

    def _answer(self, chunk: pa.Table, first: int) -> pa.Table:
        """Predict a chunk. Returns the requested columns of the dataset, and the predictions."""
        try:
            predicted = self.model.predict(chunk)
        except BadInput as error:
            rows = [problem.row for problem in error.problems if problem.row is not None]
            at = f" (rows are counted from row {first + 1} of the dataset)" if rows and first else ""
            raise BadInput(error.detail + at, problems=error.problems) from error
        columns = self.request.get("columns")
        chosen = chunk if columns is None else chunk.select(columns)
        answer = joined(chosen, {name: predicted.column(name) for name in predicted.column_names})
        return plain(answer) if self.request.get("destination") else answer
