"""Readiness of a process (`/readyz`): checks of its dependencies, each answered in time though one hangs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fitserve.errors import FitserveError

ReadinessCheck = Callable[[], object]  # raises, or returns False, if its dependency is not available
READINESS_SECONDS = 2.0  # that a dependency has to answer in


class BoundedCheck:
    """A readiness check that answers in time: one that hangs is reported, and not started again meanwhile."""

    def __init__(self, name: str, check: ReadinessCheck) -> None:
        self._check = check
        self._pool = ThreadPoolExecutor(1, f"ready-{name}")
        self._running: Future[str] | None = None

    def outcome(self) -> str:
        """Return "ok", or why the dependency is not available."""
        if self._running is None or self._running.done():
            self._running = self._pool.submit(_run_check, self._check)
        try:
            return self._running.result(READINESS_SECONDS)
        except TimeoutError:
            return f"no answer within {READINESS_SECONDS:g} s"


def _run_check(check: ReadinessCheck) -> str:
    try:
        return "not ready" if check() is False else "ok"
    except FitserveError as error:
        return error.detail
    except Exception as error:
        return type(error).__name__  # not its message, which may hold an address or a password
