"""Crash points: named places where the fault harness makes a process die. Nothing else reads these variables.

Dead unless `FITSERVE_TEST_HOOKS=1`. `FITSERVE_CRASH_AT` names points, comma-separated, each `name` (SIGKILL),
`name:stop` (SIGSTOP) or `name:error` (a broken connection). `FITSERVE_CRASH_TOKENS` is a folder: each crash
uses up one file in it named `point.*`, so that a harness counts them and they end.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

POINTS: Final = (
    "api.before_commit",
    "api.after_commit",
    "supervisor.after_claim",
    "supervisor.mid_epoch",
    "supervisor.after_blobs",
    "supervisor.after_commit",
    "reaper.mid_round",
    "dispatcher.mid_round",
    "trainer.mid_epoch",
)


def hooks_allowed() -> bool:
    """Whether this process was started by a test."""
    return os.environ.get("FITSERVE_TEST_HOOKS") == "1"


def crash_point(name: str) -> None:
    """Dies, stops or raises here where a test asked for it; otherwise does nothing."""
    if not hooks_allowed():
        return
    wanted = dict(entry.partition(":")[::2] for entry in os.environ.get("FITSERVE_CRASH_AT", "").split(",") if entry)
    if name not in wanted or not _token_left(name):
        return
    if wanted[name] == "error":
        raise ConnectionError(f"crash point {name}")
    os.kill(os.getpid(), signal.SIGSTOP if wanted[name] == "stop" else signal.SIGKILL)


def _token_left(name: str) -> bool:
    folder = os.environ.get("FITSERVE_CRASH_TOKENS")
    if not folder:
        return True
    for token in Path(folder).glob(f"{name}.*"):
        try:
            token.unlink()
        except FileNotFoundError:
            continue
        return True
    return False
