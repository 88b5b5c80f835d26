"""Reports of a search's trials: epochs under each trial's number, and the history of the searched metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fitserve.strictjson import finite_json
from workers.trainer.interface import Reporter, StopReason, TrialAssignment


class TrialReporter:
    """The Reporter of trials that are trained together; each one's place in `numbers` is its number there."""

    def __init__(self, report: Reporter, numbers: Sequence[int], metric: str, *, quiet: bool = False) -> None:
        """`quiet`: do not report epochs, since they are known already."""
        self._report, self._numbers, self._metric, self._quiet = report, list(numbers), metric, quiet
        self.history: dict[int, list[float]] = {number: [] for number in numbers}

    def event(self, level: Literal["info", "warn", "error"], message: str, data: dict[str, Any] | None = None) -> None:
        self._report.event(level, message, data)

    def epoch(
        self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: dict[str, Any] | None = None
    ) -> None:
        # The members of an ensemble that train one after the other are one trial: their epochs follow each other.
        number = self._numbers[trial] if trial < len(self._numbers) else self._numbers[0]
        history = self.history[number]
        history.append(float(logs.get(self._metric, float("nan"))))
        if not self._quiet:
            self._report.epoch(number, len(history), logs, seconds, layers)

    def search_trial(self, row: dict[str, Any]) -> None:
        self._report.search_trial(row)

    def progress(self) -> None:
        self._report.progress()

    def checkpoint(self, path: Path, epoch: int) -> None:
        self._report.checkpoint(path, epoch)

    def notes(self) -> dict[str, list[float | None]]:
        """Return the history as a checkpoint holds it."""
        notes: dict[str, list[float | None]] = finite_json(self.history)
        return notes

    def restore(self, notes: Mapping[str, Sequence[float | None]]) -> None:
        """Take the history from a checkpoint."""
        for number, values in notes.items():
            self.history[int(number)] = [math.nan if value is None else value for value in values]

    def next_trial(self, remaining: Sequence[int]) -> TrialAssignment:
        return TrialAssignment(remaining[0])

    def stop(self) -> StopReason:
        return self._report.stop()
