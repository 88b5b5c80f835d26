"""The thread that samples a process by reading its existing counters, so that requests pay nothing for it."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import Engine

from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.operations import samples
from fitserve.operations.samples import Reading

log = logging.getLogger(__name__)
PRUNE_SECONDS = 300.0


@dataclass(slots=True)
class _Open:
    """A slot that this process is writing: its counters before the slot, and the largest gauges since."""

    slot: int
    start: Reading
    most: dict[str, float] = field(default_factory=dict)


class ProcessUsage:
    """Processor time and memory of this process and its children."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._ended = 0.0  # processor seconds of children that have ended
        self._seen: dict[tuple[int, float], float] = {}  # processor seconds of running children, by id and start time

    def read(self) -> tuple[float, int]:
        """Return the seconds of processor time so far, and the resident bytes now."""
        times = self._own.cpu_times()
        memory, living = self._own.memory_info().rss, {}
        for child in self._own.children(recursive=True):
            try:
                spent = child.cpu_times()
                living[child.pid, child.create_time()] = spent.user + spent.system
                memory += child.memory_info().rss
            except psutil.Error:
                continue  # the process has just ended
        self._ended += sum(seconds for key, seconds in self._seen.items() if key not in living)
        self._seen = living
        return times.user + times.system + self._ended + sum(living.values()), memory


class Sampler(threading.Thread):
    """A thread that writes a process's samples every `seconds`. The next write makes up for a failed one."""

    def __init__(
        self, engine: Engine, kind: str, seconds: float, home: Path, read: Callable[[], Reading] = Reading
    ) -> None:
        super().__init__(name="samples", daemon=True)
        self.engine, self.kind, self.seconds, self.home, self._read = engine, kind, seconds, home, read
        self.host = platform.node()[:80] or "localhost"
        self.process = f"{kind}-{self.host}-{os.getpid()}-{new_id('s')[-6:]}"[:128]
        self.failures = 0
        self._usage = ProcessUsage()
        self._written = Reading()
        self._open: dict[int, _Open] = {}
        self._stopping = threading.Event()
        self._has_written = False

    def stop(self, wait: float = 2.0) -> None:
        """End the thread after a last write."""
        self._stopping.set()
        if self.is_alive():
            self.join(wait)

    def run(self) -> None:
        self._written = self._whole_reading()
        prune_at = time.monotonic() + PRUNE_SECONDS
        while not self._stopping.wait(self.seconds):
            self.sample()
            if time.monotonic() >= prune_at:
                prune_at = time.monotonic() + PRUNE_SECONDS
                self._guarded(lambda: samples.delete_old(self.engine))
        if self._has_written:
            self.sample()

    def sample(self, at: float | None = None) -> None:
        """Write the counts since the start of the slots that contain `at`."""
        self._guarded(lambda: self._sample(time.time() if at is None else at))

    def _sample(self, at: float) -> None:
        reading = self._whole_reading()
        rows = []
        for step, slot in samples.slots_of(at):
            known = self._open.get(step)
            if known is None or known.slot != slot:
                known = self._open[step] = _Open(slot, self._written)
            for name, value in reading.gauges.items():
                known.most[name] = max(value, known.most.get(name, value))
            rows.append(samples.between(step, slot, known.start, reading, known.most))
        new = [fault for fault in reading.faults if fault not in self._written.faults]
        samples.write(self.engine, self.process, self.kind, self.host, rows, new)
        self._written, self._has_written, self.failures = reading, True, 0

    def _whole_reading(self) -> Reading:
        reading = self._read()
        cpu, memory = self._usage.read()
        disk = psutil.disk_usage(str(self.home if self.home.exists() else Path("/")))
        reading.counts |= {"cpu_seconds": cpu, "seconds": time.monotonic()}
        reading.gauges |= {"memory_bytes": memory, "disk_free": disk.free, "disk_size": disk.total, "at": time.time()}
        return reading

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except FitserveError as error:
            self.failures += 1
            if self.failures == 1:  # logged once; the counts are written later
                log.warning("samples cannot be written", extra={"error": error.detail})
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception("samples cannot be written")
