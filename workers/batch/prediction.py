"""Batch predictions: predict a dataset's rows and write them to a destination, part by part.

Each part's predictions are stored as a blob before they are written anywhere, and the run's checkpoint names it under
the fence of the lease: every worker that writes a part writes the same bytes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fitserve import telemetry
from fitserve.blobs import Corrupt, StoredBlob
from fitserve.datasets.destinations import (
    DestinationAway,
    DestinationRefused,
    DestinationTarget,
    StoredPart,
    open_target,
)
from fitserve.errors import NotFound
from fitserve.runs.history import Report
from fitserve.runs.lease import StoredCheckpoint
from fitserve.states import RunKind
from fitserve.wire.destinations import Destination
from workers.batch.division import POLL, DividedAttempt
from workers.batch.new_dataset import NewDataset
from workers.batch.part_predictor import PartPredictor
from workers.side_attempt import SideAttempt


class BatchPredictionAttempt(DividedAttempt):
    """One attempt at one batch prediction."""

    _target: DestinationTarget | None = None
    _predictor: PartPredictor | None = None

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        self._predictor = predictor = self._open_predictor(folder)
        division = self._divide()
        self._target = self._open(folder)
        self._predicted, self._written = self._read_checkpoint()
        self._target.prepare(predictor.schema())
        self._do_all(division, range(predictor.count), self._written)
        return self._finish(predictor, [self._written[number] for number in sorted(self._written)]), {}

    def _do_part(self, number: int, blob: str | None) -> StoredPart:
        """Write a part to the destination, predicting it unless that was done before."""
        predictor = self._predictor
        assert self._target is not None
        assert predictor is not None
        part, path = _known_part(self, number, self._predicted.get(number), blob)
        if part is None or path is None:
            part, path = predictor.predict(number)
            self._predicted[number] = part
            self._write_checkpoint(())
        self._target.write(part, path)
        _count(part, self.claim.run.resolved)
        path.unlink() if path.parent == predictor.folder else None
        return part

    def _finish(self, predictor: PartPredictor, parts: list[StoredPart]) -> dict[str, Any]:
        assert self._target is not None
        request, dataset = self.claim.run.resolved, predictor.dataset
        about: dict[str, Any] = {"model": request["model"], "model_version": request["version"]}
        rows = sum(part.rows for part in parts)
        columns = [{"name": field.name, "type": str(field.type)} for field in predictor.schema()]
        of = {"run": self.claim.lease.run_id, "rows": rows, "dataset": f"{dataset.name}@{dataset.version}"}
        return {"rows": rows, **about, **self._target.finish(parts, {**about, **of, "columns": columns})}

    def _undo(self) -> list[str] | None:
        if not self.claim.run.resolved.get("destination"):
            return None
        if self._target is None or self._division is None:  # this attempt has written nothing; an earlier one may have
            return [] if self.claim.lease.attempt == 1 else None
        while not self._division.end():  # a part written after this would never be removed
            time.sleep(POLL)
        try:
            return self._target.discard()
        except (DestinationRefused, DestinationAway) as error:
            return [f"{self._target.leftovers} ({error.detail})"]

    def _open_predictor(self, folder: Path) -> PartPredictor:
        run = self.claim.run
        interrupted = lambda: self._is_interrupted  # noqa: E731
        return PartPredictor.open(
            self.settings, self.engine, self.blobs, run.resolved, run.input_dataset, folder, interrupted
        )

    def _open(self, folder: Path) -> DestinationTarget:
        """Return the run's destination; a part's is its parent's."""
        run = self.claim.run
        stated = run.resolved.get("destination")
        if stated is None:
            made_by = (run.input_dataset, run.owner, folder, run.id)
            return NewDataset(self.settings, self.engine, self.blobs, run.resolved, *made_by)
        whole = run.parent_id if run.kind == RunKind.part and run.parent_id else run.id
        return open_target(self.settings, Destination.model_validate(stated), run.owner, whole)

    def _record(self) -> None:
        """Record which parts are predicted and written, and how many of all rows are done."""
        assert self._predictor is not None
        rows, of = sum(part.rows for part in self._written.values()), self._predictor.dataset.rows
        self._write_checkpoint((self._report("info", f"{rows} of {of} rows", {"rows": rows, "of": of}),))

    def _write_checkpoint(self, reports: tuple[Report, ...]) -> None:
        body = {
            "predicted": [asdict(one) for one in self._predicted.values()],
            "written": [asdict(one) for one in self._written.values()],
        }
        self._write(reports, StoredCheckpoint(self.blobs.put_bytes(json.dumps(body).encode()), len(self._written)))

    def _read_checkpoint(self) -> tuple[dict[int, StoredPart], dict[int, StoredPart]]:
        """Return the parts that earlier attempts have predicted and written."""
        sha256 = self.claim.run.checkpoint
        try:
            body = {} if sha256 is None else json.loads(self.blobs.read(sha256))
        except (NotFound, Corrupt):
            body = {}  # predicting again costs time and gives the same result
        predicted, written = (
            {one["number"]: StoredPart(**one) for one in body.get(key, ())} for key in ("predicted", "written")
        )
        return predicted, {number: part for number, part in written.items() if self.blobs.exists(part.blob)}


class PartAttempt(BatchPredictionAttempt):
    """One attempt at one part of another worker's batch prediction."""

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        run, number = self.claim.run, int(self.claim.run.spec[RunKind.part])
        part, path = _known_part(self, number, None, run.checkpoint)
        if part is None or path is None:
            part, path = self._open_predictor(folder).predict(number)
        stored = StoredBlob(part.blob, part.bytes)
        self._write((), StoredCheckpoint(stored, 1))
        self._open(folder).write(part, path)
        _count(part, run.resolved)
        return {"rows": part.rows, "blob": part.blob, "bytes": part.bytes}, {RunKind.part: stored}

    def _undo(self) -> None:
        """Do nothing: the parent run removes what its parts wrote."""


def _known_part(
    attempt: SideAttempt, number: int, recorded: StoredPart | None, blob: str | None
) -> tuple[StoredPart | None, Path | None]:
    """Return a part that was predicted before, and its local file; (None, None) if it must be predicted."""
    sha256 = recorded.blob if recorded is not None else blob
    if sha256 is None:
        return None, None
    try:
        path = attempt.blobs.local(sha256, attempt.settings.scratch / "blobs")
    except (NotFound, Corrupt):
        return None, None
    with pq.ParquetFile(path) as file:
        return StoredPart(number, file.metadata.num_rows, sha256, path.stat().st_size), path


def _count(part: StoredPart, request: dict[str, Any]) -> None:
    kind = next(iter(request.get("destination") or {"dataset": None}))
    telemetry.BATCH_PARTS.labels(kind).inc()
    telemetry.BATCH_ROWS.labels(kind).inc(part.rows)
