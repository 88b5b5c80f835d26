"""Telemetry of an attempt: its Prometheus metrics, its span, and the log context of the request that made the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fitserve import logs, telemetry, tracing
from fitserve.runs.history import EpochReport, Report
from fitserve.runs.lease import Claim
from fitserve.states import INTERNAL_KINDS, TERMINAL, FailureCause, RunState
from fitserve.tables import Run
from fitserve.tracing import Span

log = logging.getLogger(__name__)

_LOSSES = {"training": "loss", "validation": "val_loss"}


@contextlib.contextmanager
def attempt_context(claim: Claim) -> Iterator[Span]:
    """Bind log lines and a span to one attempt. Without tracing the span does nothing."""
    telemetry.ATTEMPTS.inc()
    # A trial is meant to wait for an idle worker, and delays no one: its parent run goes on.
    if claim.run.kind not in INTERNAL_KINDS:
        telemetry.RUN_WAIT.observe(claim.waited)
    origin = claim.run.origin or {}
    attributes = {"run_id": claim.lease.run_id, "run_attempt": claim.lease.attempt, "run_model": claim.run.model}
    with (
        logs.bound(run=claim.lease.run_id, request_id=origin.get("request_id")),
        tracing.span("attempt", origin.get("traceparent"), "consumer", **attributes) as span,
    ):
        log.info("attempt begins", extra={"attempt": claim.lease.attempt, "waited_s": round(claim.waited, 3)})
        yield span


@dataclass(frozen=True, slots=True)
class AttemptTelemetry:
    """Counters and gauges of one attempt at `run`, in the slot with this number.

    A divided trial is not counted here: its epochs are counted with its parent run.
    """

    run: Run
    slot: str

    @property
    def _counts(self) -> bool:
        return self.run.kind not in INTERNAL_KINDS

    def memory(self, resident: int) -> None:
        """Set the trainer's memory, in bytes."""
        telemetry.TRAINER_MEMORY.labels(self.slot).set(resident)

    def epochs_committed(self, count: int, reports: Sequence[Report]) -> None:
        """Count `count` new epochs, and show the last one's losses under the model's name."""
        if self._counts:
            rows = int((self.run.estimates or {}).get("training_rows") or 0)
            telemetry.EPOCHS.inc(count)
            telemetry.ROWS_TRAINED.inc(count * rows)
        last = next((report for report in reversed(reports) if isinstance(report, EpochReport)), None)
        if self.run.model is None or last is None:
            return
        for part, name in _LOSSES.items():
            if isinstance(loss := last.logs.get(name), int | float):
                telemetry.LAST_LOSS.labels(self.run.model, part).set(loss)

    def run_failed(self, cause: FailureCause) -> None:
        if self._counts:
            telemetry.RUN_FAILURES.labels(cause).inc()

    def attempt_over(self, state: RunState | None, seconds: float) -> None:
        """Observe the attempt's duration and remove its gauges."""
        self.memory(0)
        if self.run.model is not None:
            for part in _LOSSES:
                with contextlib.suppress(KeyError):
                    telemetry.LAST_LOSS.remove(self.run.model, part)
        if self._counts:
            telemetry.RUN_SECONDS.observe(seconds)
            if state in TERMINAL:
                telemetry.RUNS_FINISHED.labels(str(state)).inc()
