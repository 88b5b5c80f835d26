"""Counting what networks are asked and answer, off the way of a request.

A request leaves its decoded rows and its answers in a buffer, up to so many values a second; a thread counts them in
bulk, and writes the counts down every few seconds. `fitserve.live_statistics` sums the processes' windows,
`fitserve.drift` compares them with the training rows'.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from sqlalchemy import Engine

from fitserve import drift, live_statistics
from fitserve.ids import new_id
from fitserve.settings import Settings

if TYPE_CHECKING:
    from services.predict.catalog.loaded_model import Network

log = logging.getLogger(__name__)

VALUES_A_SECOND = 6_000  # of one network that are counted; of more, a sample is
ROWS_A_SECOND = (50, 1_000)  # the bounds of what that means in rows
MOST_COLUMNS = 1_000  # that are counted; the first ones
TICK = 0.25  # seconds between two counts of what was left
SHOWN_CLASSES = 20  # by name in telemetry, the rest together

_Taken = tuple[list[Any], bool, list[Any]]  # rows by request, whether each is flat numbers, answers by output


class Watched:
    """What one network is asked and answers. `due` and `take` belong to the event loop, the rest to the thread."""

    def __init__(self, network: Network, slice_seconds: int) -> None:
        self.model, self.version, self.artifact = network.model, network.version, network.artifact
        self.slice_seconds = slice_seconds
        training = network.manifest.get("training_distribution") or {}
        self.names = network.columns.names
        self.columns = [
            (place, column, training[column.name])
            for place, column in enumerate(network.columns.fitted[:MOST_COLUMNS])
            if column.name in training
        ]
        self.plain = all(distribution["kind"] == "numeric" for _, _, distribution in self.columns)
        self.outputs = network.outputs
        self.answered: Mapping[str, Any] = network.manifest.get("prediction_distribution") or {}
        least, most = ROWS_A_SECOND
        self.rate = max(least, min(most, VALUES_A_SECOND // max(1, len(self.names))))
        self.due = 0.0  # seconds of `time.perf_counter`
        self.buffer: deque[_Taken] = deque()
        self.slices: dict[int, live_statistics.Totals] = {}
        self.unwritten: set[int] = set()
        self.shown = live_statistics.Totals()  # since the start of this process, for telemetry

    def take(self, now: float, given: list[Any], flat: bool, count: int, answers: list[Any]) -> None:
        """Leaves the rows of some requests, and what was answered, to be counted."""
        self.buffer.append((given, flat, answers))
        self.due = max(self.due, now - 1.0) + count / self.rate

    def take_rows(self, rows: Any, outputs: Mapping[str, Any]) -> None:
        """The same for one request's `Rows`; of many rows, every n-th is left."""
        now = time.perf_counter()
        if now <= self.due:
            return
        step = max(1, rows.count // self.rate)
        given = rows.values[::step]
        answers = [outputs[output.name][::step] for output in self.outputs]
        self.take(now, [given], False, len(given), answers)

    def count(self, epoch_seconds: float) -> None:
        """Counts what was left, in this slice of time."""
        taken = [self.buffer.popleft() for _ in range(len(self.buffer))]
        if not taken:
            return
        rows = [row for given, flat, _ in taken for row in self._rows(given, flat)]
        counts = {
            "rows": len(rows),
            "columns": self._count_columns(rows),
            "outputs": self._count_outputs([answers for _, _, answers in taken]),
        }
        at = int(epoch_seconds) // self.slice_seconds * self.slice_seconds
        self.slices.setdefault(at, live_statistics.Totals()).add(counts)
        self.unwritten.add(at)
        self.shown.add({**counts, "columns": {}})

    def _rows(self, given: list[Any], flat: bool) -> Iterable[Any]:
        width = len(self.names)
        for part in given:
            if flat:
                yield from (part[start : start + width] for start in range(0, len(part), width))
            else:
                yield from part

    def _count_columns(self, rows: list[Any]) -> dict[str, drift.BinCounts]:
        read = [_positional(row, self.names) for row in rows]
        matrix = _matrix(read) if self.plain else None
        found = {}
        for place, column, distribution in self.columns:
            if matrix is not None:
                values = matrix[:, place]
            else:
                given = [row[place] if place < len(row) else None for row in read]
                values = column.measurable(given)
            found[column.name] = drift.count(distribution, values)
        return found

    def _count_outputs(self, answers: list[list[Any]]) -> dict[str, dict[str, drift.BinCounts]]:
        found = {}
        for place, output in enumerate(self.outputs):
            values = np.concatenate([one[place] for one in answers])
            told = drift.prediction_parts(output.task, output.labels, values)
            found[output.name] = {
                part: drift.count(distribution, told[part])
                for part, distribution in self.distributions(output).items()
                if part in told
            }
        return found

    def distributions(self, output: Any) -> dict[str, Any]:
        """What an output's answers are counted by: as in training, where the manifest tells."""
        if output.name in self.answered:
            return dict(self.answered[output.name])
        if not output.labels:
            return {}
        labels = [*output.labels, "none"] if output.task == "multilabel" else output.labels
        return {"classes": drift.class_distribution(labels, ()), "scores": drift.score_distribution(np.zeros(0))}

    def rows_to_write(self, process: str) -> list[live_statistics.Counted]:
        """What changed since the last time."""
        found = []
        for at in sorted(self.unwritten):
            one = self.slices[at]
            counts = {"rows": one.rows, "columns": one.columns, "outputs": one.outputs}
            found.append(live_statistics.Counted(self.model, self.version, self.artifact, process, at, counts))
        return found

    def written(self, slices: Iterable[int], oldest: float) -> None:
        """These are written down; slices before `oldest` are forgotten."""
        self.unwritten.difference_update(slices)
        for at in [at for at in self.slices if at < oldest]:
            del self.slices[at]
            self.unwritten.discard(at)


def _positional(row: Any, names: Sequence[str]) -> Any:
    if type(row) is dict:
        return [row.get(name) for name in names]
    if isinstance(row, msgspec.Struct):
        return msgspec.structs.astuple(row)
    return row if isinstance(row, (list, tuple, np.ndarray)) else (row,)


def _matrix(rows: list[Any]) -> Any:
    """Rows of plain numbers as one array; None where a value is something else."""
    try:
        found = np.array(rows, np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        return None
    return found if found.ndim == 2 else None


class DriftDesk(threading.Thread):
    """The thread that counts and writes, and the networks that it watches."""

    def __init__(self, settings: Settings, engine: Engine, loaded: Callable[[], Iterable[Network]]) -> None:
        super().__init__(name="drift", daemon=True)
        self.settings, self.engine, self.loaded = settings, engine, loaded
        self.process = f"{platform.node()[:80]}-{os.getpid()}-{new_id('p')[-6:]}"
        self.window = settings.drift_window_seconds
        self.watched: dict[tuple[str, str], Watched] = {}
        self.kept: deque[dict[str, Any]] = deque(maxlen=10_000)  # answers that shall be joined with their truth
        self.write_failures = 0
        self._ending = threading.Event()

    def watch(self, network: Network) -> Watched:
        """What counts for this network; of an artifact that was unloaded, what was counted goes on."""
        key = (network.model, network.artifact)
        found = self.watched.get(key)
        if found is None:
            found = self.watched[key] = Watched(network, live_statistics.slice_seconds(self.window))
        return found

    def keep(self, network: Network, owner: str, id: str, outputs: Mapping[str, Any]) -> None:
        """Keeps an answer under its id. Belongs to the event loop."""
        values = {name: np.asarray(value, np.float64).tolist() for name, value in outputs.items()}
        self.kept.append(
            {"model": network.model, "owner": owner, "id": id, "version": network.version, "outputs": values}
        )

    def stop(self) -> None:
        """Ends the thread after a last write."""
        self._ending.set()

    def run(self) -> None:
        write_at = time.monotonic() + self.settings.drift_write_seconds
        while not self._ending.wait(TICK):
            self._count()
            if time.monotonic() >= write_at or self.kept:
                self._write()
                write_at = time.monotonic() + self.settings.drift_write_seconds
        self._count()
        self._write()

    def _count(self) -> None:
        for watched in list(self.watched.values()):
            try:
                watched.count(time.time())
            except Exception:
                log.exception("rows could not be counted", extra={"model": watched.model})

    def _write(self) -> None:
        kept = [self.kept.popleft() for _ in range(len(self.kept))]
        every = list(self.watched.values())
        rows = [row for watched in every for row in watched.rows_to_write(self.process)]
        try:
            if kept:
                live_statistics.keep_predictions(self.engine, kept)
            live_statistics.write(self.engine, rows)
        except Exception as error:
            self.write_failures += 1
            self.kept.extendleft(reversed(kept))
            if self.write_failures == 1:  # said once; counts are kept and written later
                log.warning("what models are asked cannot be written down", extra={"error": type(error).__name__})
            return
        oldest = time.time() - self.window - live_statistics.slice_seconds(self.window)
        for watched in every:
            key = (watched.model, watched.artifact)
            watched.written([row.slice for row in rows if (row.model, row.artifact) == key], oldest)
        alive = {(network.model, network.artifact) for network in self.loaded()}
        for key, watched in list(self.watched.items()):
            if key not in alive and not watched.slices and not watched.buffer:
                del self.watched[key]
