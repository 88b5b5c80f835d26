"""Crash points: named lines of code where the fault harness can make a process die.

Inactive unless `FITSERVE_TEST_HOOKS=1`. `FITSERVE_CRASH_AT` names points, comma-separated, each `name` (SIGKILL),
`name:stop` (SIGSTOP) or `name:error` (a broken connection). `FITSERVE_CRASH_TOKENS` is a folder: each crash
uses up one file in it named `point.*`, so that the harness can count and bound them.
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
    "import.after_plan",
    "import.after_part",
    "import.after_blobs",
    "rollout.measured",
    "rollout.before_commit",
    "rollout.after_commit",
    "automations.before_opened",
    "automations.after_opened",
    "automations.after_run",
    "automations.after_started",
    "automations.before_decision",
    "automations.before_decided",
    "automations.after_decision",
    "webhooks.before_dispatched",
    "webhooks.after_dispatched",
    "webhooks.after_claim",
    "webhooks.after_answer",
    "webhooks.after_outcome",
)


def hooks_allowed() -> bool:
    """Return whether a test started this process."""
    return os.environ.get("FITSERVE_TEST_HOOKS") == "1"


def crash_point(name: str) -> None:
    """Die, stop or raise here if a test requested it; otherwise do nothing."""
    if not hooks_allowed():
        return
    requested = dict(entry.partition(":")[::2] for entry in os.environ.get("FITSERVE_CRASH_AT", "").split(",") if entry)
    if name not in requested or not _use_token(name):
        return
    if requested[name] == "error":
        raise ConnectionError(f"crash point {name}")
    os.kill(os.getpid(), signal.SIGSTOP if requested[name] == "stop" else signal.SIGKILL)


def _use_token(name: str) -> bool:
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
