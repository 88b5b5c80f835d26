"""Runs whose worker was lost: their leases have expired."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from fitserve import telemetry
from fitserve.crash_points import crash_point
from fitserve.runs import finish
from fitserve.states import TERMINAL, FailureCause, RunState

log = logging.getLogger(__name__)


def reclaim_expired_runs(engine: Engine, max_attempts: int) -> None:
    """T6, T7, T9: requeue or end every run whose lease has expired.

    Safe in any number of processes. Idle workers call it too: a lost run must not wait for a reaper that is down.
    """
    for run_id, state in finish.expire_leases(engine, max_attempts):
        telemetry.REAPED.inc()
        if state in TERMINAL:
            telemetry.RUNS_FINISHED.labels(str(state)).inc()
        if state == RunState.failed:
            telemetry.RUN_FAILURES.labels(FailureCause.worker_lost).inc()
        log.warning("worker lost", extra={"run": run_id, "state": str(state)})
        crash_point("reaper.mid_round")
