"""Sample models' inputs and answers for drift, away from the hot path.

A request leaves its decoded rows and its answers in a buffer, up to a number of values per second. A thread counts them
in bulk (`drift_monitor`). `fitserve.drift` compares them with the training rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from fitserve import drift, monitoring
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, ModelOutput

VALUES_PER_SECOND = 6_000  # values of one model that are counted; above that, a sample
ROWS_PER_SECOND = (50, 1_000)  # bounds of the resulting number of rows, for any number of columns
MAX_COLUMNS = 1_000  # the first ones are counted

_Sample = tuple[list[Any], bool, list[Any]]  # rows by request, whether each is flat numbers, answers by output


class DriftSampler:
    """Requests and answers of one model.

    The sampling methods belong to the event loop and to gRPC's threads, the others to the thread that counts. Two that
    sample at the same moment may exceed the rate by one request.
    """

    def __init__(self, model: LoadedModel, slice_seconds: int) -> None:
        self.model, self.version, self.artifact = model.name, model.version, model.artifact
        self.slice_seconds = slice_seconds
        training = model.manifest.get("training_distribution") or {}
        self.names = model.columns.names
        self.columns = [
            (place, column, training[column.name])
            for place, column in enumerate(model.columns.fitted[:MAX_COLUMNS])
            if column.name in training
        ]
        self.all_numeric = all(distribution["kind"] == "numeric" for _, _, distribution in self.columns)
        self.outputs = model.outputs
        self.training_answers: Mapping[str, Any] = model.manifest.get("prediction_distribution") or {}
        least, most = ROWS_PER_SECOND
        self.rows_per_second = max(least, min(most, VALUES_PER_SECOND // max(1, len(self.names))))
        self.next_sample_at = 0.0  # seconds of `time.perf_counter`
        self.buffer: deque[_Sample] = deque()
        self.slices: dict[int, monitoring.WindowTotals] = {}  # by start, in epoch seconds
        self.unwritten: set[int] = set()  # slices that changed since the last write
        self.since_start = monitoring.WindowTotals()  # totals of this process, for telemetry

    def sample(self, now: float, rows: list[Any], flat: bool, count: int, answers: list[Any]) -> None:
        """Buffer the rows of some requests (`count` in all), and the answers by output."""
        self.buffer.append((rows, flat, answers))
        # A longer pause still adds at most one second's budget of rows.
        self.next_sample_at = max(self.next_sample_at, now - 1.0) + count / self.rows_per_second

    def sample_request(self, rows: InputRows, outputs: Mapping[str, Any]) -> None:
        """Buffer one request if a sample is due; every n-th row if there are many."""
        now = time.perf_counter()
        if now <= self.next_sample_at:
            return
        step = max(1, rows.count // self.rows_per_second)
        sampled = rows.sampled(step)
        answers = [outputs[output.name][::step] for output in self.outputs]
        self.sample(now, [sampled], False, len(sampled), answers)

    def count_buffer(self, epoch_seconds: float) -> None:
        """Add the buffered samples to the current time slice."""
        samples = [self.buffer.popleft() for _ in range(len(self.buffer))]
        if not samples:
            return
        width = len(self.names)
        rows: list[Any] = []
        for requests, flat, _ in samples:
            for values in requests:
                rows.extend(
                    (values[index : index + width] for index in range(0, len(values), width)) if flat else values
                )
        counts = {
            "rows": len(rows),
            "columns": self._count_columns(rows),
            "outputs": self._count_outputs([answers for _, _, answers in samples]),
        }
        start = int(epoch_seconds) // self.slice_seconds * self.slice_seconds
        self.slices.setdefault(start, monitoring.WindowTotals()).add(counts)
        self.unwritten.add(start)
        self.since_start.add({**counts, "columns": {}})

    def _count_columns(self, rows: list[Any]) -> dict[str, drift.BinCounts]:
        positional = [_positional(row, self.names) for row in rows]
        matrix = _matrix(positional) if self.all_numeric else None
        counts = {}
        for place, column, distribution in self.columns:
            if matrix is not None:
                values = matrix[:, place]
            else:
                raw = [row[place] if place < len(row) else None for row in positional]
                values = column.measurable(raw)
            counts[column.name] = drift.count(distribution, values)
        return counts

    def _count_outputs(self, answers: list[list[Any]]) -> dict[str, dict[str, drift.BinCounts]]:
        counts = {}
        for place, output in enumerate(self.outputs):
            values = np.concatenate([by_output[place] for by_output in answers])
            parts = drift.prediction_parts(output.task, output.labels, values)
            counts[output.name] = {
                part: drift.count(distribution, parts[part])
                for part, distribution in self.distributions(output).items()
                if part in parts
            }
        return counts

    def distributions(self, output: ModelOutput) -> dict[str, Any]:
        """Return an output's distributions over the training rows, which define its bins, if the manifest has them."""
        if output.name in self.training_answers:
            return dict(self.training_answers[output.name])
        if not output.labels:
            return {}
        labels = [*output.labels, "none"] if output.task == "multilabel" else output.labels
        return {"classes": drift.class_distribution(labels, ()), "scores": drift.score_distribution(np.zeros(0))}

    def unwritten_windows(self, process: str) -> list[monitoring.WindowCounts]:
        """Return the slices that changed since the last write."""
        windows = []
        for start in sorted(self.unwritten):
            totals = self.slices[start]
            counts = {"rows": totals.rows, "columns": totals.columns, "outputs": totals.outputs}
            windows.append(monitoring.WindowCounts(self.model, self.version, self.artifact, process, start, counts))
        return windows

    def mark_written(self, starts: Iterable[int], oldest: float) -> None:
        """Mark these slices as written, and drop those that started before `oldest`."""
        self.unwritten.difference_update(starts)
        for start in [start for start in self.slices if start < oldest]:
            del self.slices[start]
            self.unwritten.discard(start)


def _positional(row: Any, names: Sequence[str]) -> Any:
    if type(row) is dict:
        return [row.get(name) for name in names]
    if isinstance(row, msgspec.Struct):
        return msgspec.structs.astuple(row)
    return row if isinstance(row, (list, tuple, np.ndarray)) else (row,)


def _matrix(rows: list[Any]) -> Any:
    """Return rows of plain numbers as one array; None if a value is something else."""
    try:
        matrix = np.array(rows, np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        return None
    return matrix if matrix.ndim == 2 else None
