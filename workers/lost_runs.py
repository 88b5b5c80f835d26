"""Runs whose worker was lost go back to the queue, or to their end: T6, T7, T9."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from fitserve import telemetry
from fitserve.crash import crash_point
from fitserve.runs import finish
from fitserve.states import TERMINAL, RunState

log = logging.getLogger(__name__)


def take_back(engine: Engine, max_attempts: int) -> None:
    """Every run whose lease has run out.

    Safe in any number of processes. The reaper does it, and so do idle workers: a lost run must not wait for a
    reaper that is away itself.
    """
    for run_id, state in finish.expire(engine, max_attempts):
        telemetry.REAPED.inc()
        if state in TERMINAL:
            telemetry.RUNS_FINISHED.labels(str(state)).inc()
        if state == RunState.failed:
            telemetry.RUN_FAILURES.labels("worker_lost").inc()
        log.warning("a worker was lost", extra={"run": run_id, "state": str(state)})
        crash_point("reaper.mid_round")
