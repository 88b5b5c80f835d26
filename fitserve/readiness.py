"""Readiness of a process (`/readyz`): dependency checks that return in time even if one hangs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fitserve.errors import FitserveError

ReadinessCheck = Callable[[], object]  # raises, or returns False, if its dependency is not available
READINESS_SECONDS = 2.0  # time limit of one check


class BoundedCheck:
    """A readiness check with a time limit; a hanging check is reported, and not started a second time."""

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
