"""What Prometheus is told of an attempt."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from fitserve import telemetry
from fitserve.runs.history import EpochReport, Report
from fitserve.states import TERMINAL, TRIAL, RunState
from fitserve.tables import Run

_LOSSES = {"training": "loss", "validation": "val_loss"}


@dataclass(frozen=True, slots=True)
class Meters:
    """The counters and gauges of one attempt at `run` in the slot with this number.

    A trial that was divided from its run counts for nothing: its run shows its epochs as well.
    """

    run: Run
    slot: str

    @property
    def _whole(self) -> bool:
        return self.run.kind != TRIAL

    def memory(self, resident: int) -> None:
        """The trainer's memory, in bytes."""
        telemetry.TRAINER_MEMORY.labels(self.slot).set(resident)

    def written(self, epochs: int, reports: Sequence[Report]) -> None:
        """`epochs` new ones are in the database; their last one's losses are shown under the model's name."""
        if self._whole:
            rows = int((self.run.estimates or {}).get("training_rows") or 0)
            telemetry.EPOCHS.inc(epochs)
            telemetry.ROWS_TRAINED.inc(epochs * rows)
        last = next((report for report in reversed(reports) if isinstance(report, EpochReport)), None)
        if self.run.model is None or last is None:
            return
        for rows_of, name in _LOSSES.items():
            if isinstance(loss := last.logs.get(name), int | float):
                telemetry.LAST_LOSS.labels(self.run.model, rows_of).set(loss)

    def failed(self, cause: str) -> None:
        """The run has failed for good."""
        if self._whole:
            telemetry.RUN_FAILURES.labels(cause).inc()

    def over(self, state: RunState | None, seconds: float) -> None:
        """The attempt is over; its gauges are forgotten."""
        self.memory(0)
        if self.run.model is not None:
            for rows_of in _LOSSES:
                with contextlib.suppress(KeyError):
                    telemetry.LAST_LOSS.remove(self.run.model, rows_of)
        if self._whole:
            telemetry.RUN_SECONDS.observe(seconds)
            if state in TERMINAL:
                telemetry.RUNS_FINISHED.labels(str(state)).inc()
