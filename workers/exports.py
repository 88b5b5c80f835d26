"""Exports of a served version: a process of its own converts and compares, because it needs TensorFlow."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select

from fitserve import artifacts, db, exports
from fitserve.blobs import StoredBlob
from fitserve.datasets import store
from fitserve.errors import NotFound
from fitserve.states import FailureCause
from fitserve.tables import Dataset, Epoch
from workers.side_attempt import DeterministicFailure, Interrupted, SideAttempt
from workers.trainer_process import clean_environment

ROWS = 256  # to compare on
SECONDS = 900.0  # for one export
_POLL = 0.1


class ExportAttempt(SideAttempt):
    """One attempt at one export."""

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        request = self.claim.run.resolved
        artifact = artifacts.read(self.blobs, request["artifact"])
        exports.check(request["format"], artifact.manifest)
        self._lay_out(folder, artifact)
        self._convert(folder)
        result = json.loads((folder / "result.json").read_text())
        if "cause" in result:
            raise DeterministicFailure(FailureCause(result["cause"]), result["detail"], result["parity"])
        blob = self.blobs.put_file(folder / "export")
        wanted = {name: request[name] for name in ("model", "format", "artifact")}
        outcome = {"model_version": request["version"], "file": blob.sha256, "bytes": blob.bytes}
        return {**wanted, **outcome, "parity": result["parity"]}, {exports.EXPORT_BLOB: blob}

    def _lay_out(self, folder: Path, artifact: artifacts.Artifact) -> None:
        """Write what the conversion reads."""
        request, cache = self.claim.run.resolved, self.settings.scratch / "blobs"
        (folder / "manifest.json").write_text(json.dumps(artifact.manifest))
        for kind in ("keras", "onnx"):
            (folder / f"model.{kind}").write_bytes(self.blobs.read(artifact.file(kind).sha256))
        with db.reading(self.engine) as session:
            dataset = session.get(Dataset, self.claim.run.dataset_id)
            epochs = select(Epoch).where(Epoch.run_id == artifact.manifest["run"]).order_by(Epoch.trial, Epoch.epoch)
            by_trial = itertools.groupby(session.scalars(epochs), key=lambda row: row.trial)
            logs = [[row.logs for row in rows] for _, rows in by_trial]
        if dataset is None:
            raise NotFound("The dataset that the version was trained on is gone: nothing to compare the export on.")
        table = store.local_parquet(self.blobs, dataset, cache, again=True)
        asked = {"format": request["format"], "version": request["version"], "table": str(table), "epochs": logs}
        (folder / "request.json").write_text(json.dumps(asked))
        with pq.ParquetFile(table) as file:
            first = next(file.iter_batches(ROWS))
        pq.write_table(pa.Table.from_batches([first]), folder / "rows.parquet")

    def _convert(self, folder: Path) -> None:
        """Run the conversion. Raises Interrupted, DeterministicFailure."""
        command = [sys.executable, "-m", "workers.trainer.convert", str(folder)]
        deadline = time.monotonic() + SECONDS
        log = folder / "log"
        environment = clean_environment(self.settings, folder)
        with (
            log.open("wb") as sink,
            subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True) as process,
        ):
            while process.poll() is None:
                if self._is_interrupted or time.monotonic() > deadline:
                    os.killpg(process.pid, signal.SIGKILL)  # the process group: the exporter's own child processes too
                    process.wait()
                    if self._is_interrupted:
                        raise Interrupted
                time.sleep(_POLL)
        if process.returncode != 0:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it was killed"]
            message = f"The export failed: {last[0][:300]}"
            raise DeterministicFailure(FailureCause.export, message, {"exit": process.returncode})
