"""Whose work an attempt is: log lines and a span that belong to the request that made the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fitserve import logs, telemetry, tracing
from fitserve.runs.lease import Claim
from fitserve.states import TRIAL
from fitserve.tracing import Span

log = logging.getLogger(__name__)


@contextmanager
def attempt_of(claim: Claim) -> Iterator[Span]:
    """Around one attempt. Without tracing the span does nothing."""
    telemetry.ATTEMPTS.inc()
    if claim.run.kind != TRIAL:  # which waits for an idle worker, and its run for nothing
        telemetry.RUN_WAIT.observe(claim.waited)
    origin = claim.run.origin or {}
    told = {"run_id": claim.lease.run_id, "run_attempt": claim.lease.attempt, "run_model": claim.run.model}
    with (
        logs.bound(run=claim.lease.run_id, request_id=origin.get("request_id")),
        tracing.span("attempt", origin.get("traceparent"), "consumer", **told) as span,
    ):
        log.info("attempt begins", extra={"attempt": claim.lease.attempt, "waited_s": round(claim.waited, 3)})
        yield span
