"""Manage the child processes: start them, restart those that end, stop them together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fitserve.embedded_redis import die_with_parent
from fitserve.settings import Settings
from services.up.log_files import LogFiles
from services.up.ports import worker_ports

log = logging.getLogger("fitserve.up")

_MAX_RESTART_DELAY = 10.0  # seconds, for a process that keeps dying
_STABLE_SECONDS = 60.0  # a process that ran this long restarts without delay
_POLL = 0.1
_HURRIED_SECONDS = 5.0  # seconds left to them after a second Ctrl-C
HURRY = signal.SIGUSR2  # asks a worker to release its runs without waiting for the end of an epoch


@dataclass
class Child:
    """A child process that is restarted whenever it ends."""

    name: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    own_group: bool = False  # the terminal's Ctrl-C then reaches only us
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    restart_at: float = 0.0
    exit_code: int | None = None  # exit code of its latest end

    def start(self, logs: LogFiles) -> None:
        """Start it; it logs to its file. The kernel ends it when this process dies (Linux)."""
        with logs.opened(self.name) as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                preexec_fn=die_with_parent,
                process_group=0 if self.own_group else None,
            )
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    def has_died(self) -> bool:
        """Return whether it has ended since the last call. It is then due again after a delay that doubles."""
        if self.process is None or self.process.poll() is None:
            return False
        now = time.monotonic()
        self.exit_code = self.process.returncode
        self.deaths = 1 if now - self.started_at > _STABLE_SECONDS else self.deaths + 1
        delay = 0.0 if self.deaths == 1 else min(_MAX_RESTART_DELAY, 0.5 * 2 ** (self.deaths - 2))
        self.restart_at = now + delay
        self.process = None
        log.error("%s ended; restarting it", self.name, extra={"code": self.exit_code, "delay_s": delay})
        return True

    @property
    def due(self) -> bool:
        """Whether it is not running, and the delay before its restart is over."""
        return self.process is None and time.monotonic() >= self.restart_at

    def send(self, signum: int) -> None:
        """Send it a signal, if it still runs."""
        if self.running and self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signum)


def make_children(settings: Settings, redis_url: str, own_group: bool) -> list[Child]:
    """Return the processes to run, all with the same resolved database, blob store and broker."""
    shared = {
        "FITSERVE_HOME": str(settings.home.resolve()),
        "FITSERVE_DATABASE_URL": settings.resolved_database_url,
        "FITSERVE_BLOB_URL": settings.resolved_blob_url,
        "FITSERVE_REDIS_URL": redis_url,
    }
    children = [
        Child("api", "services.control", shared, own_group),
        Child("predict", "services.predict", shared, own_group),
    ]
    for index, port in enumerate(worker_ports(settings), 1):
        environment = {**shared, "FITSERVE_WORKER_METRICS_PORT": str(port)}
        children.append(Child(f"worker-{index}", "workers", environment, own_group))
    return [*children, Child("reaper", "workers.reaper", shared, own_group)]


def stop_all(
    children: Sequence[Child], seconds: float, requests: Callable[[], int], while_waiting: Callable[[], None]
) -> None:
    """Send SIGTERM to all, and SIGKILL to those that still run after that time.

    `requests` counts how often someone has asked for the end: at the second time, workers hand their runs back at
    once and the web processes drop their connections; at the third, everything is killed.
    """
    for child in children:
        child.send(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    hurried = False
    while any(child.running for child in children) and time.monotonic() < deadline and requests() < 3:
        if requests() > 1 and not hurried:
            hurried = True
            deadline = min(deadline, time.monotonic() + _HURRIED_SECONDS)
            for child in children:
                child.send(HURRY if child.name.startswith("worker") else signal.SIGINT)
        while_waiting()
        time.sleep(_POLL)
    for child in children:
        if child.running and child.process:
            log.warning("%s did not stop in time; killed", child.name)
            child.process.kill()
        if child.process:
            child.process.wait()
