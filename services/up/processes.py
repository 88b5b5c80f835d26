"""Child processes that live and die with this one."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fitserve.embedded import die_with_parent

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 10.0  # seconds between two restarts of a process that keeps dying
_SOUND_AFTER = 60.0  # a process that lived so long starts again at once


@dataclass
class Child:
    """One process, started again whenever it ends without being asked to."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    restart_at: float = 0.0

    def start(self) -> None:
        """Starts it in our process group; the kernel ends it when we die (Linux)."""
        self.process = subprocess.Popen(
            self.command, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tend(self) -> None:
        """Starts it again where it has died, the later the more often it did."""
        if self.running:
            return
        now = time.monotonic()
        if self.process is not None:
            code = self.process.returncode
            self.deaths = 1 if now - self.started_at > _SOUND_AFTER else self.deaths + 1
            pause = 0.0 if self.deaths == 1 else min(_LONGEST_PAUSE, 0.5 * 2 ** (self.deaths - 2))
            self.restart_at = now + pause
            self.process = None
            log.error("%s ended; starting it again", self.name, extra={"code": code, "pause_s": pause})
        if now >= self.restart_at:
            self.start()


def stop_all(children: Sequence[Child], seconds: float) -> None:
    """SIGTERM to all, then SIGKILL to whoever is still there after that time."""
    for child in children:
        if child.running and child.process:
            child.process.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in time; killed", child.name)
            child.process.kill()
            child.process.wait()
