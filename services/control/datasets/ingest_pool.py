"""Parsing what was uploaded: on threads, few at a time, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.lowlevel import RunVar

from fitserve import telemetry
from fitserve.errors import FitserveError

INGESTS = 2  # uploads parsed at the same time
T = TypeVar("T")


async def ingesting(work: Callable[[], T]) -> T:
    """Runs `work` on a thread, with few others at the same time; counts how it ended."""
    try:
        limiter = _ingests.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(INGESTS)
        _ingests.set(limiter)
    try:
        done = await anyio.to_thread.run_sync(work, limiter=limiter)
    except FitserveError as error:
        telemetry.UPLOADS.labels("refused" if error.status < 500 else "failed").inc()
        raise
    telemetry.UPLOADS.labels("stored").inc()
    return done


_ingests: RunVar[anyio.CapacityLimiter] = RunVar("ingests")  # of the event loop
