"""Small networks trained in this process, with their findings; small tables to train them on."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.datasets.ingest import ingest
from fitserve.findings import EpochRow, Finding, RunRecord, apply_patch, diagnose
from fitserve.findings.record import flatten_insight
from fitserve.settings import Limits
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.wire.datasets import UploadOptions
from tests.trainer.requests import RecordingReporter, facts_of, request_of
from workers.trainer.interface import TrainingFailed, TrainingRequest, TrainingResult
from workers.trainer.train import train


class LayerReporter(RecordingReporter):
    """Records the layers of each epoch too."""

    def epoch(self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: Any = None) -> None:
        self.epochs.append({"trial": trial, "epoch": epoch, "logs": logs, "layers": layers, "seconds": seconds})


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended. `insight` and `result` are None where it failed."""

    record: RunRecord
    result: TrainingResult | None
    insight: dict[str, Any] | None
    folder: Path
    seconds: list[float]  # of every recorded epoch

    @property
    def findings(self) -> dict[str, Finding]:
        return {finding.rule: finding for finding in diagnose(self.record)}

    def loss(self, part: str = "validation") -> float:
        """Return the mean log loss or squared error (in the target's units, without penalty) of the kept network."""
        value = self.record.mean_loss("network", part)
        return float("inf") if value is None else value

    @property
    def kept_validation(self) -> float:
        """The validation loss of the kept epoch, without penalty, as training minimised it."""
        trial, index = self.record.trial, self.record.kept_epoch_index
        return float("inf") if trial is None or index is None else trial.validation[index]

    def patched(self, rule: str) -> dict[str, Any]:
        """Return the spec with that finding's patch."""
        changed: dict[str, Any] = apply_patch(self.record.spec, self.findings[rule].patch)
        return changed


def run(table: pa.Table, spec: dict[str, Any], facts: DatasetFacts | None = None) -> TrainedRun:
    """Train `spec` on `table`. A run of several trials is recorded as the API records it: as its best one."""
    folder = Path(tempfile.mkdtemp(prefix="insight-"))
    request = request_of(table, spec, folder) if facts is None else request_on(table, facts, spec, folder)
    reporter = LayerReporter()
    result, failed = None, None
    try:
        result = train(request, reporter)
    except TrainingFailed as failure:
        failed = failure.cause
    # As the API reads them: rows and files through JSON.
    rows = [EpochRow(e["trial"], e["epoch"], e["logs"], _through_json(e["layers"])) for e in reporter.epochs]
    insight = json.loads(result.files["insight"].read_text()) if result else None
    kept = result.result["best_trial"] if result else None
    record = RunRecord(
        request.spec,
        DatasetFacts.model_validate(request.facts),
        rows,
        flatten_insight(insight, request.spec),
        kept,
        failed,
    )
    return TrainedRun(record, result, insight, folder, [epoch["seconds"] for epoch in reporter.epochs])


def run_seeds(table: pa.Table, spec: dict[str, Any], seeds: int, restarts: int = 1) -> list[TrainedRun]:
    """Return runs under the seeds from 0, of `restarts` trials each, trained as trials of one run.

    What they share is traced, fitted and evaluated once. A trial that was not kept is not evaluated: its record has its
    epochs and layers and the losses of simpler models, but no figures of its own network.
    """
    training = {**spec["training"], "seed": 0, "restarts": seeds * restarts}
    whole = run(table, {**spec, "training": training})
    if whole.result is None:
        return [whole] * seeds
    single = {**whole.record.spec, "training": {**whole.record.spec["training"], "restarts": restarts}}
    trials = whole.result.result["trials"]
    found = []
    for seed in range(seeds):
        own = trials[seed * restarts : (seed + 1) * restarts]
        best = min(own, key=lambda trial: float("inf") if trial["score"] is None else trial["score"])
        insight = dict(whole.record.insight or {})
        if best["index"] != whole.record.kept_trial:
            insight = {key: value for key, value in insight.items() if key in ("alone", "task", "labels")}
            insight["fit"] = {k: v for k, v in (whole.record.insight or {})["fit"].items() if k != "network"}
        insight["kept_epoch"] = best["best_epoch"]
        rows = [row for row in whole.record.rows if row.trial in [trial["index"] for trial in own]]
        record = RunRecord(
            {**single, "training": {**single["training"], "seed": seed * restarts}},
            whole.record.facts,
            rows,
            insight,
            best["index"],
            None if best["score"] is not None else "diverged",
        )
        found.append(TrainedRun(record, whole.result, None, whole.folder, whole.seconds))
    return found


def request_on(table: pa.Table, facts: DatasetFacts, spec: dict[str, Any], folder: Path) -> TrainingRequest:
    """Return a request on a table with the facts of its upload."""
    path = folder / "table.parquet"
    pq.write_table(table, path)
    spec = resolve(parse({"dataset": "data", **spec}), facts).spec.to_json()
    return TrainingRequest("run", 1, spec, facts.model_dump(mode="json"), path, folder)


def _through_json(value: Any) -> Any:
    return None if value is None else json.loads(json.dumps(value, allow_nan=False))


def with_seed(spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the same spec under another seed."""
    return {**spec, "training": {**spec.get("training", {}), "seed": seed}}


def resolved(table: pa.Table, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec with every default written out."""
    return resolve(parse({"dataset": "data", **spec}), facts_of(table)).spec.to_json()


# --- tables ---------------------------------------------------------------------------------------


def table_of(x: np.ndarray, y: Any, names: list[str] | None = None) -> pa.Table:
    """Return a table of columns x0, x1, ... and `y`."""
    columns = {name: x[:, i] for i, name in enumerate(names or [f"x{i}" for i in range(x.shape[1])])}
    return pa.table({**columns, "y": y})


def blobs(rows: int = 300, width: int = 4, apart: float = 2.0, seed: int = 0) -> pa.Table:
    """Two Gaussian clouds, `apart` standard deviations from each other."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    return table_of(rng.normal(size=(rows, width)) + apart / width**0.5 * y[:, None], y.astype(bool))


def circle(rows: int = 400, noise: float = 0.1, seed: int = 0) -> pa.Table:
    """Inside or outside a circle: not linearly separable."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 2))
    return table_of(x, (np.hypot(x[:, 0], x[:, 1]) + rng.normal(0, noise, rows)) < 0.75)


def xor(rows: int = 300, seed: int = 0) -> pa.Table:
    """The exclusive or of two signs."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 2))
    x += 0.2 * np.sign(x)
    return table_of(x, (x[:, 0] > 0) != (x[:, 1] > 0))


def line(rows: int = 300, scale: float = 1.0, offset: float = 0.0, noise: float = 0.1, seed: int = 0) -> pa.Table:
    """A regression on three columns, with a bend and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    y = x[:, 0] - 0.5 * x[:, 1] + 0.5 * np.abs(x[:, 2]) + rng.normal(0, noise, rows)
    return table_of(x, offset + scale * y)


def dataset(path: Path, **options: Any) -> tuple[pa.Table, DatasetFacts]:
    """Return a table as an upload reads it, with its facts."""
    made = ingest(path, UploadOptions(**options), Limits(), Path(tempfile.mkdtemp(prefix="insight-")))
    columns = tuple(ColumnFacts.from_stored(column) for column in made.columns)
    facts = DatasetFacts(name="data", version=1, sha256="0" * 64, rows=made.rows, columns=columns)
    return pq.read_table(made.parquet), facts
