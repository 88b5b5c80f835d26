"""Batch predictions: a dataset in, a dataset with predictions out, chunk by chunk, resumable after any chunk.

Each chunk's predictions are a blob, and the checkpoint lists the finished chunks. `fitserve.datasets.store.create`
returns the same dataset for the same bytes, so committing the result again after a crash makes no second dataset.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, select

from fitserve import artifacts, db, telemetry
from fitserve.blobs import BlobStore, Corrupt, StoredBlob, sha256_of
from fitserve.conformal import Bounds, Conformal, RowFacts
from fitserve.datasets import store
from fitserve.decisions.abstain import abstentions
from fitserve.decisions.apply import Decider
from fitserve.decisions.distance import KIND as DISTANCE
from fitserve.decisions.distance import distances
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import group_labels
from fitserve.errors import BadInput, Conflict, FitserveError, NotFound
from fitserve.live_coverage import moved_levels
from fitserve.runs import finish, lease
from fitserve.runs.history import EventReport, Report
from fitserve.runs.lease import LeaseLost, StoredCheckpoint
from fitserve.settings import Settings
from fitserve.states import TERMINAL, RunState
from fitserve.tables import Dataset, Run
from fitserve.wire.datasets import UploadOptions
from workers.attempt.telemetry import attempt_context
from workers.trainer.export.prediction_columns import joined, prediction_columns

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

CHUNK = 20_000  # rows
KIND = "prediction"
POLL_SECONDS = 2.0


class DeterministicFailure(Exception):
    """The work failed, and would fail again."""

    def __init__(self, cause: str, detail: str, evidence: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.cause, self.detail, self.evidence = cause, detail, evidence


class Interrupted(Exception):
    """The lease is lost, a cancel was requested, or this worker stops."""


class BatchPredictor(threading.Thread):
    """Runs queued batch predictions one after the other, beside the slots that train.

    `attempts` are at runs of other kinds that need no slot either, by kind.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        blobs: BlobStore,
        stopping: threading.Event,
        attempts: Mapping[str, type[BatchPredictionAttempt]] | None = None,
    ) -> None:
        super().__init__(name="predictions", daemon=True)
        self.settings, self.engine, self.blobs, self.stopping = settings, engine, blobs, stopping
        self._attempts: dict[str, type[BatchPredictionAttempt]] = {KIND: BatchPredictionAttempt, **(attempts or {})}
        self._woken = threading.Event()
        self._worker = f"{platform.node()}-{os.getpid()}-predictions"

    def wake(self) -> None:
        """Look at the queue now."""
        self._woken.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                while not self.stopping.is_set() and self._run_next():
                    pass
            except FitserveError as error:
                log.warning("cannot claim a batch prediction", extra={"error": error.detail})
            except Exception:
                log.exception("batch prediction failed")  # its lease expires, and a reaper requeues it
            self._woken.wait(POLL_SECONDS)
            self._woken.clear()

    def _run_next(self) -> bool:
        """Whether there was a batch prediction to run."""
        with db.reading(self.engine) as session:  # unlike a claim, this takes no write lock
            waiting = select(Run.id).where(Run.kind.in_(self._attempts), Run.state == RunState.queued).limit(1)
            if session.scalar(waiting) is None:
                return False
        limit = self.settings.limits.running_runs
        seconds = self.settings.lease_seconds
        claim = lease.claim(
            self.engine, self._worker, lease_seconds=seconds, running_limit=limit, kinds=tuple(self._attempts)
        )
        if claim is None:
            return False
        with attempt_context(claim) as span:
            attempt = self._attempts[claim.run.kind]
            span.end_run(attempt(self.settings, self.engine, self.blobs, claim, self.stopping).run())
        return True


@dataclass
class BatchPredictionAttempt:
    """One attempt at one batch prediction."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    claim: lease.Claim
    stopping: threading.Event
    _lost: bool = False
    _cancel: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> RunState | None:
        """Predict, and leave the run in a known state or to its next holder.

        Returns the state in which this attempt left the run, None where the lease was lost.
        """
        started = time.monotonic()
        folder = self.settings.scratch / "runs" / f"{self.claim.lease.run_id}-{self.claim.lease.attempt}"
        folder.mkdir(parents=True, exist_ok=True)
        heartbeat = threading.Thread(target=self._renew_lease, name="heartbeat", daemon=True)
        heartbeat.start()
        state: RunState | None = None
        try:
            state = self._predict_and_commit(folder)
        except LeaseLost:
            log.warning("lease lost", extra={"run": self.claim.lease.run_id})
        finally:
            self._over.set()
            heartbeat.join()
            shutil.rmtree(folder, ignore_errors=True)
            telemetry.RUN_SECONDS.observe(time.monotonic() - started)
            if state in TERMINAL:
                telemetry.RUNS_FINISHED.labels(str(state)).inc()
        return state

    def _predict_and_commit(self, folder: Path) -> RunState:
        try:
            result, stored = self._work(folder)
            return finish.succeed(
                self.engine, self.claim.lease, result, blobs=self.blobs, stored=stored, register=lambda session: None
            )
        except (Interrupted, finish.CancelledFirst) as error:
            if self._lost:
                raise LeaseLost(self.claim.lease.run_id) from error
            if self._cancel or isinstance(error, finish.CancelledFirst):
                return finish.confirm_cancel(self.engine, self.claim.lease)
            return finish.release(self.engine, self.claim.lease)
        except DeterministicFailure as error:
            cause = error.cause
            state = finish.fail(self.engine, self.claim.lease, cause, error.detail, error.evidence)
        except (BadInput, NotFound, Corrupt, Conflict) as error:
            problems = [problem.as_dict() for problem in error.problems]
            cause = "bad_data"
            state = finish.fail(self.engine, self.claim.lease, cause, error.detail, {"errors": problems})
        except LeaseLost:
            raise
        except Exception as error:
            log.exception("batch prediction failed", extra={"run": self.claim.lease.run_id})
            detail = error.detail if isinstance(error, FitserveError) else f"The worker failed: {type(error).__name__}"
            cause = "internal_error"
            state = finish.lose(self.engine, self.claim.lease, self.settings.max_attempts, cause, detail)
        if state == RunState.failed:
            telemetry.RUN_FAILURES.labels(cause).inc()
        return state

    def _renew_lease(self) -> None:
        """Renew the lease while chunks are predicted."""
        while not self._over.wait(self.settings.heartbeat_seconds):
            try:
                self._write(())
            except LeaseLost:
                return
            except FitserveError:
                log.warning("database unavailable; the prediction continues", extra={"run": self.claim.lease.run_id})

    def _write(self, reports: tuple[Report, ...], checkpoint: StoredCheckpoint | None = None) -> None:
        """T3: renew the lease and write progress. Raises LeaseLost."""
        try:
            requested, _ = lease.heartbeat(
                self.engine,
                self.claim.lease,
                lease_seconds=self.settings.lease_seconds,
                reports=reports,
                progress=bool(reports),
                checkpoint=checkpoint,
                blobs=self.blobs,
            )
        except LeaseLost:
            self._lost = True
            raise
        self._cancel = self._cancel or requested is not None

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        """Do what the run is for: return its result, and the blobs by kind that it refers to."""
        return self._predict(folder), {}

    def _predict(self, folder: Path) -> dict[str, Any]:
        request = self.claim.run.resolved
        interval, decisions = request.get("interval"), request.get("decisions")
        rates = request.get("error_rates")
        model = ArtifactModel(self.blobs, request["artifact"], interval, decisions, rates)
        with db.reading(self.engine) as session:
            dataset = session.get(Dataset, self.claim.run.dataset_id)
        if dataset is None:
            raise NotFound("The run's dataset is gone.")
        table = store.local_parquet(self.blobs, dataset, self.settings.scratch / "blobs", again=True)
        done = self._finished_chunks()
        # What is begun is recorded, and nothing is begun once the attempt is to end: no chunk is predicted twice.
        left = itertools.takewhile(
            lambda _: not self._is_interrupted, itertools.islice(enumerate(batches(table)), len(done), None)
        )

        def predict(numbered: tuple[int, pa.Table]) -> str:
            number, batch = numbered
            return self._predict_chunk(model, batch, number, folder)

        for chunk in in_order(predict, left, self.settings.trainer_threads or os.cpu_count() or 1):
            done.append(chunk)
            rows = min(dataset.rows, len(done) * CHUNK)
            checkpoint = StoredCheckpoint(self.blobs.put_bytes(json.dumps(done).encode()), len(done))
            report = EventReport(
                len(done), "info", f"{rows} of {dataset.rows} rows", {"rows": rows, "of": dataset.rows}
            )
            self._write((report,), checkpoint)
        if self._is_interrupted:
            raise Interrupted
        predicted = self._create_dataset(dataset, table, done, folder)
        return {
            "dataset": f"{predicted.name}@{predicted.version}",
            "dataset_id": predicted.id,
            "rows": predicted.rows,
            "model": request["model"],
            "model_version": request["version"],
        }

    @property
    def _is_interrupted(self) -> bool:
        return self._lost or self._cancel or self.stopping.is_set()

    def _finished_chunks(self) -> list[str]:
        """Blobs of the chunks that an earlier attempt has finished."""
        sha256 = self.claim.run.checkpoint
        try:
            done = [] if sha256 is None else json.loads(self.blobs.read(sha256))
            return done if all(self.blobs.exists(chunk) for chunk in done) else []
        except (NotFound, Corrupt):
            return []  # predicting again costs time and gives the same result

    def _predict_chunk(self, model: ArtifactModel, batch: pa.Table, number: int, folder: Path) -> str:
        try:
            predicted = model.predict(batch)
        except BadInput as error:
            rows = [problem.row for problem in error.problems if problem.row is not None]
            at = f" (rows are counted from row {number * CHUNK + 1} of the dataset)" if rows and number else ""
            raise BadInput(error.detail + at, problems=error.problems) from error
        path = folder / f"chunk-{number}.parquet"
        pq.write_table(predicted, path)
        stored: StoredBlob = self.blobs.put_file(path)
        path.unlink()
        return stored.sha256

    def _create_dataset(self, dataset: Dataset, table: Path, done: list[str], folder: Path) -> Dataset:
        """Create a dataset of the input's own columns and the predictions."""
        path, cache = folder / "predictions.parquet", self.settings.scratch / "blobs"
        writer: pq.ParquetWriter | None = None
        try:
            for batch, chunk in zip(batches(table), done, strict=True):
                predicted = pq.read_table(self.blobs.local(chunk, cache))
                batch = joined(batch, {name: predicted.column(name) for name in predicted.column_names})
                writer = writer or pq.ParquetWriter(path, batch.schema)
                writer.write_table(batch)
        finally:
            if writer is not None:
                writer.close()
        request = self.claim.run.resolved
        created, _ = store.create(
            self.engine,
            self.blobs,
            store.ReceivedFile(path, sha256_of(path), path.stat().st_size, f"{request['name']}.parquet"),
            owner=self.claim.run.owner,
            options=UploadOptions(format="parquet"),
            limits=self.settings.limits,
            scratch=self.settings.scratch,
            name=request["name"],
            as_version=True,
            origin={"predicted": {"model": request["model"], "version": request["version"], "dataset": dataset.id}},
        )
        return created


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield `function` of each item, in order, computed by so many threads: they are at most that far ahead.

    Raises what the first item in order to fail raised.
    """
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="chunk") as pool:
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def batches(path: Path) -> Iterator[pa.Table]:
    """Yield a Parquet file's rows, CHUNK at a time, always cut at the same places."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK):
            yield pa.Table.from_batches([batch])


class ArtifactModel:
    """An artifact's encoder and serving graph, for whole tables. Several threads may predict.

    `interval` is the level of its intervals and sets, 0 for none; without it, that of its spec answers. Labels are by
    `decisions`, else by its manifest's.
    """

    def __init__(
        self,
        blobs: BlobStore,
        artifact: str,
        interval: float | None = None,
        decisions: Sequence[Mapping[str, Any]] | None = None,
        error_rates: Mapping[str, float] | None = None,
    ) -> None:
        self.manifest = manifest = artifacts.read(blobs, artifact).manifest
        self.conformal = Conformal(manifest)
        level = self.conformal.level if interval is None else interval
        self.levels = {one["name"]: level for one in self.conformal.outputs} if level else {}
        if interval is None:  # ground truth may have moved the level
            self.levels |= moved_levels(self.conformal, error_rates or {})
        self.decisions = {
            one["output"]: one for one in (manifest.get("decisions") if decisions is None else decisions) or ()
        }
        far = any((one.get("abstain") or {}).get("distance") is not None for one in self.decisions.values())
        self.distance = artifacts.onnx_session(blobs.read(manifest[DISTANCE]["sha256"])) if far else None
        self.encoder = Encoder.from_json(manifest["encoder"])
        self.outputs = manifest["outputs"]
        self.session = artifacts.onnx_session(blobs.read(manifest["onnx"]["sha256"]))

    def predict(self, table: pa.Table) -> pa.Table:
        """Predict a table's rows: a column for each unit, and the label of a classification."""
        names, feeds = [output["name"] for output in self.outputs], self.encoder.encode(table)
        columns: dict[str, Any] = {}
        results = self.session.run(names, feeds)
        predicted = {
            name: np.asarray(one).reshape(table.num_rows, -1) for name, one in zip(names, results, strict=True)
        }
        for output in self.outputs:
            values = predicted[output["name"]]
            columns |= prediction_columns(output, values)
            if (decision := self.decisions.get(output["name"])) is not None:
                columns |= self._decided_columns(output, predicted, decision, feeds, table)
        if self.levels:
            for one in self._bounds(predicted, self._facts(feeds, table)):
                for name, listed in one.listed().items():
                    texts = one.members is not None
                    columns[f"predicted_{name}"] = ["; ".join(own) for own in listed] if texts else listed
        return pa.table(columns)

    def _bounds(self, predicted: Mapping[str, np.ndarray], facts: RowFacts) -> list[Bounds]:
        levels = set(self.levels.values())
        if len(levels) == 1:
            return self.conformal.bounds(predicted, levels.pop(), facts)
        own = self.levels.items()
        return [one for name, level in own for one in self.conformal.bounds(predicted, level, facts, only=name)]

    def _facts(self, feeds: Any, table: pa.Table) -> RowFacts:
        """Return what bounds depend on beside the outputs."""
        if (name := self.conformal.coverage_by) is None:
            return RowFacts(feeds=feeds)
        column = self.encoder.leading[self.encoder.names.index(name)]
        return RowFacts(group_labels(table.column(name).to_pylist(), column.format), feeds)

    def _decided_columns(
        self,
        output: dict[str, Any],
        predicted: Mapping[str, np.ndarray],
        decision: Mapping[str, Any],
        feeds: Any,
        table: pa.Table,
    ) -> dict[str, Any]:
        """Return the decided label, or labels, of each row; missing where none is answered, and a column says why."""
        name, labels = f"predicted_{output['name']}", [str(label) for label in output["labels"]]
        decider, limits = Decider(decision, labels), decision.get("abstain") or {}
        values, sizes, far, warnings = predicted[output["name"]], None, None, None
        if (level := limits.get("prediction_set")) is not None:
            facts = self._facts(feeds, table)
            sizes = self.conformal.bounds(predicted, level, facts, only=output["name"])[0].sizes()
        if limits.get("distance") is not None and self.distance is not None:
            far = distances(self.distance, feeds)
        if limits.get("unlike_training"):
            _, warnings = self.encoder.encode_rows(table.select(list(self.encoder.names)).to_pylist())
        reasons = abstentions(limits, len(values), set_sizes=sizes, distances=far, warned=warnings)
        if output["task"] == "multilabel":
            answers = [
                "; ".join(one for one, own in zip(labels, row, strict=True) if own) for row in decider.applies(values)
            ]
        else:
            answers = [labels[place] for place in decider.places(values)]
        columns = {
            name: pa.array([None if why else answer for answer, why in zip(answers, reasons, strict=True)], pa.string())
        }
        return columns | ({f"{name}_abstained": pa.array(reasons, pa.string())} if limits else {})
