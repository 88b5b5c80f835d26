"""Trainer processes as a supervisor sees them: started clean, kept warm, killed as a group."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from fitserve.crash import hooks_allowed
from fitserve.settings import Settings
from workers.trainer.channel import Channel, ChannelClosed, Message

log = logging.getLogger(__name__)

START_SECONDS = 180.0  # until a trainer says that it is ready; a cold disk with TensorFlow on it is slow
# Nothing else of our environment reaches a trainer: no database URL, no broker, no key, no cloud credentials.
_PASSED_ON = frozenset({"PATH", "USER", "LANG", "TZ", "VIRTUAL_ENV"})
_PASSED_ON_PREFIXES = ("LC_", "LD_", "PYTHON", "TF_", "KERAS_", "XLA_", "CUDA_", "NVIDIA_", "OMP_", "MALLOC_", "COV_")
_TEST_HOOKS = ("FITSERVE_TEST_HOOKS", "FITSERVE_TRAINER_MODULE", "FITSERVE_CRASH_AT", "FITSERVE_CRASH_TOKENS")


class Spawner:
    """The one thread that starts trainers.

    The kernel's parent-death signal goes by the *thread* that started a child, so that thread must live as
    long as we do.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, name="spawner", daemon=True).start()

    def _run(self) -> None:
        while True:
            start, future = self._asked.get()
            try:
                future.set_result(start())
            except BaseException as error:
                future.set_exception(error)

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._asked.put((lambda: subprocess.Popen(command, **options), future))
        return future.result()


def clean_environment(settings: Settings, folder: Path) -> dict[str, str]:
    """What a trainer may know of our environment. `folder` is its own."""
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    if hooks_allowed():
        kept |= {name: os.environ[name] for name in _TEST_HOOKS if name in os.environ}
    kept["TRAINER_MEMORY_BYTES"] = str(memory_limit(settings))
    kept["TRAINER_THREADS"] = str(settings.trainer_threads)
    kept["HOME"] = kept["TMPDIR"] = str(folder)
    kept["TRAINER_FOLDERS"] = json.dumps(
        {
            "reads": [str(path) for path in readable(settings)],
            "writes": [str(folder), str(settings.scratch / "runs"), *_test_folders()],
            "kept_shut": str(settings.home.resolve()),
            "network": settings.trainer_network,
        }
    )
    return kept


def readable(settings: Settings) -> list[Path]:
    """Where tables and checkpoints lie: the blob store's folder, or the local copies of it."""
    found = [settings.scratch / "blobs"]
    scheme, _, path = settings.resolved_blob_url.partition("://")
    return [*found, Path(path)] if scheme == "file" else found


def _test_folders() -> list[str]:
    return [os.environ["FITSERVE_CRASH_TOKENS"]] if hooks_allowed() and "FITSERVE_CRASH_TOKENS" in os.environ else []


def memory_limit(settings: Settings) -> int:
    """Bytes that one trainer may hold."""
    return settings.trainer_memory_bytes or int(psutil.virtual_memory().total * 0.75) // max(1, settings.trainers)


class TrainerProcess:
    """One trainer: a process group of its own, and the channel to it."""

    def __init__(self, settings: Settings, spawner: Spawner) -> None:
        self.started_at = time.monotonic()
        self.limit = memory_limit(settings)
        # Opened to the trainer below, so they must be there: before the first upload there is no blob store yet.
        for made in (settings.scratch / "runs", *readable(settings)):
            made.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="trainer-", dir=settings.scratch))
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = spawner.start(
                [sys.executable, "-m", "workers.trainer", str(theirs.fileno()), str(os.getpid())],
                env=clean_environment(settings, self.folder),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.channel = Channel(ours)
        self.ready = False
        self.runs = 0
        self.resident = 0  # bytes, as last seen
        self.peak = 0  # bytes, the most seen in this run

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self, timeout: float) -> bool:
        """Whether it is ready within `timeout` seconds. Raises ChannelClosed where it has died."""
        if not self.ready:
            message = self.channel.receive(timeout)
            self.ready = message is not None and message["type"] == "ready"
            if message is not None and message.get("not_given_up"):
                log.warning("a trainer has more rights than it needs", extra=message["not_given_up"])
        return self.ready

    def receive(self, timeout: float) -> Message | None:
        """The next message. Raises ChannelClosed."""
        return self.channel.receive(timeout)

    def look_at_memory(self) -> int:
        """Resident bytes of the process now; remembers the peak."""
        try:
            self.resident = int(psutil.Process(self.process.pid).memory_info().rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return 0
        self.peak = max(self.peak, self.resident)
        return self.resident

    def kill(self) -> int:
        """SIGKILL to its whole group; returns the exit code (the negative signal's number)."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


class Slot:
    """A place for one run at a time, with a trainer kept warm for the next."""

    def __init__(self, settings: Settings, spawner: Spawner, worker: str) -> None:
        self.settings = settings
        self.worker = worker  # the id of this slot in the table of workers
        self._spawner = spawner
        self._trainer: TrainerProcess | None = None

    def warm(self) -> None:
        """Starts a trainer where there is none that lives."""
        if self._trainer is not None and not self._trainer.alive:
            self.drop()
        if self._trainer is None:
            self._trainer = TrainerProcess(self.settings, self._spawner)

    def is_warm(self) -> bool:
        """Whether a trainer waits, ready."""
        try:
            return self._trainer is not None and self._trainer.alive and self._trainer.wait_ready(0)
        except ChannelClosed:
            return False

    def trainer(self, meanwhile: Callable[[], None]) -> TrainerProcess:
        """A ready trainer; calls `meanwhile` while it starts. Raises ChannelClosed where none will start."""
        for _ in range(3):
            self.warm()
            assert self._trainer is not None
            try:
                while not self._trainer.wait_ready(0.1):
                    meanwhile()
                    if time.monotonic() - self._trainer.started_at > START_SECONDS:
                        raise ChannelClosed
                if self._trainer.alive:
                    self._trainer.runs += 1
                    self._trainer.peak = 0
                    return self._trainer
            except ChannelClosed:
                log.warning("a trainer died while it started")
            self.drop()
        raise ChannelClosed

    def release(self, trainer: TrainerProcess) -> None:
        """Keeps a trainer that has ended its run well, unless it has worked for long or grown large."""
        try:
            deadline = time.monotonic() + 10
            while (message := trainer.receive(max(0.0, deadline - time.monotonic()))) is not None:
                if message["type"] == "idle":
                    large = message["resident"] > trainer.limit // 2
                    if trainer.runs < self.settings.trainer_runs and not large:
                        return
                    break
        except ChannelClosed:
            pass
        self.drop()
        self.warm()

    def drop(self) -> None:
        """Kills the trainer."""
        if self._trainer is not None:
            self._trainer.kill()
            self._trainer = None
