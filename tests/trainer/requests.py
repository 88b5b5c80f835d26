"""Training requests on small tables, without a supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.spec.resolve import resolve
from fitserve.spec.resolve_search import resolve_search
from fitserve.spec.search import is_search, read_search
from fitserve.spec.spec import parse
from fitserve.spec.warm_start import WeightsSource
from workers.trainer.interface import StopReason, TrainingRequest, TrainingResult, TrialAssignment

if TYPE_CHECKING:
    from workers.trainer.ready_run import ReadyRun
    from workers.trainer.trials.trial import TrialsOutcome


@dataclass
class RecordingReporter:
    """A Reporter that records what is reported, and asks to stop after `stop_after` epochs."""

    events: list[tuple[str, str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[tuple[bytes, int]] = field(default_factory=list)
    checkpoint_paths: list[Path] = field(default_factory=list)
    search_trials: list[dict[str, Any]] = field(default_factory=list)
    keep_checkpoints: bool = True
    stop_after: int | None = None  # epochs
    reason: StopReason = "cancel"

    def event(self, level: str, message: str, data: Any = None) -> None:
        self.events.append((level, message, data))

    def epoch(self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: Any = None) -> None:
        self.epochs.append({"trial": trial, "epoch": epoch, "logs": logs})

    def search_trial(self, row: dict[str, Any]) -> None:
        self.search_trials.append(row)

    def progress(self) -> None:
        pass

    def checkpoint(self, path: Path, epoch: int) -> None:
        if self.keep_checkpoints:
            self.checkpoints.append((path.read_bytes(), epoch))
        self.checkpoint_paths.append(path)

    def next_trial(self, remaining: Sequence[int]) -> TrialAssignment:
        return TrialAssignment(remaining[0])

    def stop(self) -> StopReason:
        return self.reason if self.stop_after is not None and len(self.epochs) >= self.stop_after else ""


def facts_of(table: pa.Table, kinds: dict[str, str] | None = None) -> DatasetFacts:
    """Facts as an upload would infer them, except for the stated `kinds`."""
    columns = [_facts(name, table.column(name), (kinds or {}).get(name)) for name in table.column_names]
    return DatasetFacts(name="data", version=1, sha256="0" * 64, rows=table.num_rows, columns=tuple(columns))


def _facts(name: str, column: pa.ChunkedArray, kind: str | None) -> ColumnFacts:
    codes, labels = labels_of(column)
    storage = next(storage for is_it, storage, _ in _TYPES if is_it(column.type))
    kind = kind or next(kind for is_it, _, kind in _TYPES if is_it(column.type))
    numbers = np.zeros(0) if storage == "string" else numbers_of(column)
    known = numbers[np.isfinite(numbers)]
    order = sorted(range(len(labels)), key=lambda at: float(labels[at]) if kind == "numeric" else labels[at])
    few = len(labels) <= 1000
    return ColumnFacts(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        storage=storage,  # type: ignore[arg-type]
        rows=len(column),
        missing=int((codes < 0).sum()),
        infinite=int(np.isinf(numbers).sum()),
        distinct=len(labels),
        labels=tuple(labels[at] for at in order) if few else None,
        label_counts=tuple(int((codes == at).sum()) for at in order) if few else None,
        min=float(known.min()) if len(known) else None,
        max=float(known.max()) if len(known) else None,
        mean=float(known.mean()) if len(known) else None,
        std=float(known.std()) if len(known) else None,
        max_tokens=max(len(label.split()) for label in labels) if storage == "string" else None,
    )


_TYPES = (
    (pa.types.is_boolean, "bool", "boolean"),
    (pa.types.is_integer, "int64", "numeric"),
    (pa.types.is_floating, "float64", "numeric"),
    (pa.types.is_timestamp, "timestamp", "datetime"),
    (pa.types.is_string, "string", "categorical"),
)


def request_of(
    table: pa.Table,
    spec: dict[str, Any],
    folder: Path,
    kinds: dict[str, str] | None = None,
    begins: WeightsSource | None = None,
    **more: Any,
) -> TrainingRequest:
    """A request that trains on `table`. `spec` may leave out the dataset and whatever has a default."""
    facts = facts_of(table, kinds)
    body = {"dataset": "data", **spec}
    search = read_search(body)[0] if is_search(body) else None
    if search:
        resolved = resolve_search(search, facts).resolved
    else:
        resolved = resolve(parse(body), facts, source=begins).spec.to_json()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "table.parquet"
    pq.write_table(table, path)
    return TrainingRequest("run", 1, resolved, facts.model_dump(mode="json"), path, folder, **more)


def train_only(request: TrainingRequest, reporter: RecordingReporter) -> TrainingResult:
    """Train without what follows, which takes as long: files, figures and analysis.

    The result has the trials, and in its receipt the digest of the weights.
    """
    from workers.trainer.ready_run import ReadyRun
    from workers.trainer.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadyRun, "finish", _weights_and_trials)
        return train(request, reporter)


def _weights_and_trials(ready: ReadyRun, outcome: TrialsOutcome, _: float) -> TrainingResult:
    from workers.trainer.export.receipt import weights_digest
    from workers.trainer.trained_ensemble import TrainedEnsemble
    from workers.trainer.trained_run import CompiledRun, TrainedRun

    run_type = TrainedRun if outcome.members is None else TrainedEnsemble
    run = run_type(**{one.name: getattr(ready, one.name) for one in fields(CompiledRun)}, outcome=outcome, seconds={})
    result = {
        "best_trial": outcome.best,
        "best_epoch": outcome.trials[outcome.best].best_epoch,
        "trials": [asdict(trial) for trial in outcome.trials],
    }
    return TrainingResult({}, {"receipt": {"weights": weights_digest(run._network)}}, result)
