"""Wait for a process's effect, however busy the machine, until it has happened or no longer can."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Most seconds to wait for anything. Beside other work a machine may be many times slower than alone; no wait is longer
# than its condition needs, so that a high limit costs a passing test nothing.
PATIENCE = float(os.environ.get("FITSERVE_TEST_PATIENCE", "180"))
# A pause grows with what was waited already, to at most MAX_PAUSE: fifty requests a second, of a server that trains
# for ten seconds, would take as much processor time as the training.
GROWTH = 0.04
MAX_PAUSE = 0.25


def wait_until(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "the condition",
    *,
    process: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
    patience: float = PATIENCE,
    pause: float = 0.02,
) -> Any:
    """Return the first true value of `condition`. Fails after `patience` seconds, or once `process` has ended.

    It is asked at most every `pause` seconds, and less often as time passes. The message says `what` did not come, with
    the end of `log`.
    """
    began = time.monotonic()
    deadline = began + patience
    while not (value := condition()):
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            if value := condition():  # it may have come true between the check and the process's end
                return value
            why = f"its process has ended with {process.returncode}" if ended and process else f"{patience:.0f} s"
            said = what() if callable(what) else what
            tail = f"\n{log}:\n{log.read_text(errors='replace')[-5000:]}" if log and log.exists() else ""
            raise AssertionError(f"did not come ({why}): {said}{tail}")
        time.sleep(max(pause, min(MAX_PAUSE, GROWTH * (time.monotonic() - began))))
    return value


def fastest(attempt: Callable[[], float], seconds: float, tries: int = 10) -> float:
    """Return the least seconds that an attempt took: the first that are few enough, or else the least of several.

    For a limit that is promised: another process may delay any single attempt.
    """
    taken: list[float] = []
    while len(taken) < tries and not (taken and taken[-1] < seconds):
        taken.append(attempt())
    return min(taken)
