"""Trainer processes, as the supervisor sees them: start with a clean environment, keep one warm per slot, kill."""

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
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from fitserve.crash_points import hooks_allowed
from fitserve.process_start import cores
from fitserve.settings import Settings
from workers.trainer.channel import Channel, ChannelClosed, Message
from workers.trainer_output import TrainerOutput

log = logging.getLogger(__name__)

# For a trainer to become ready: of its processor time, and of waiting without any. Importing TensorFlow is slow from a
# cold disk and on a busy machine, where starting over would take as long again.
START_SECONDS = 180.0
# All that a trainer inherits: no database URL, no broker, no key, no cloud credentials.
_INHERITED = frozenset({"PATH", "USER", "LANG", "TZ", "VIRTUAL_ENV"})
_INHERITED_PREFIXES = (
    *("LC_", "LD_", "PYTHON", "TF_", "KERAS_", "XLA_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MALLOC_", "COV_"),
)
_TEST_HOOKS = ("FITSERVE_TEST_HOOKS", "FITSERVE_TRAINER_MODULE", "FITSERVE_CRASH_AT", "FITSERVE_CRASH_TOKENS")


def clean_environment(settings: Settings, folder: Path, in_gang: bool = False, number: int = 0) -> dict[str, str]:
    """Return the environment of a worker's trainer `number`, in its own folder; `in_gang` lets it open sockets."""
    environment = {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    if hooks_allowed():
        environment |= {name: os.environ[name] for name in _TEST_HOOKS if name in os.environ}
    environment["TRAINER_MEMORY_BYTES"] = str(memory_limit(settings))
    environment["TRAINER_THREADS"] = str(settings.trainer_threads)
    # Without it scikit-learn starts programs that look for cores, and warns where they find none.
    environment.setdefault("OMP_NUM_THREADS", str(settings.trainer_threads or cores()))
    environment["HOME"] = environment["TMPDIR"] = str(folder)
    environment["TRAINER_FOLDERS"] = json.dumps(
        {
            "reads": [str(path) for path in data_folders(settings)],
            "writes": [str(folder), str(settings.scratch / "runs"), *_test_folders()],
            "private": str(settings.home.resolve()),
            "network": settings.trainer_network or in_gang,
        }
    )
    if in_gang:
        environment["TRAINER_IN_GANG"] = "1"
    if (gpus := gpus_of(settings, number)) is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    return environment


def gpus_of(settings: Settings, number: int) -> str | None:
    """Return the GPUs of a worker's trainer `number` if there are several of both: every trainer has its share of them.

    Without this, each trainer would take the memory of all GPUs. None: use whatever there is.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(index) for index, _ in enumerate(_DRIVERS_GPUS.glob("*"))]
    if settings.trainers == 1 or len(gpus) < 2:
        return None
    return ",".join(gpus[number % len(gpus) :: settings.trainers])


def data_folders(settings: Settings) -> list[Path]:
    """Return the folders that trainers read tables and checkpoints from: the blob cache, and a blob store on disk."""
    copies = settings.scratch / "blobs"
    scheme, _, path = settings.resolved_blob_url.partition("://")
    return [copies, Path(path)] if scheme == "file" else [copies]


def _test_folders() -> list[str]:
    return [os.environ["FITSERVE_CRASH_TOKENS"]] if hooks_allowed() and "FITSERVE_CRASH_TOKENS" in os.environ else []


def memory_limit(settings: Settings) -> int:
    """Return the most memory, in bytes, that one trainer may hold."""
    return settings.trainer_memory_bytes or int(psutil.virtual_memory().total * 0.75) // max(1, settings.trainers)


_DRIVERS_GPUS = Path("/proc/driver/nvidia/gpus")


class StartWatch:
    """Tells a process that starts slowly from one that hangs."""

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pid, self._clock = pid, clock
        self._used, self._worked_at = 0.0, clock()

    def is_hung(self) -> bool:
        """Return whether it has used START_SECONDS of processor time, or none for that long."""
        try:
            times = psutil.Process(self._pid).cpu_times()
        except psutil.Error:  # it has exited, which its channel tells
            return False
        used, now = times.user + times.system, self._clock()
        if used > self._used:
            self._used, self._worked_at = used, now
        return used > START_SECONDS or now - self._worked_at > START_SECONDS


class TrainerProcess:
    """One trainer process, in a process group of its own, and the channel to it."""

    def __init__(self, settings: Settings, spawner: ThreadPoolExecutor, in_gang: bool = False, number: int = 0) -> None:
        """`in_gang`: for one run that several trainers train, which TensorFlow must know before it starts."""
        self.in_gang = in_gang
        self.limit = memory_limit(settings)
        # The sandbox can only allow folders that exist; before the first upload there is no blob store yet.
        for folder in (settings.scratch / "runs", *data_folders(settings)):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="trainer-", dir=settings.scratch))
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = spawner.submit(
                subprocess.Popen,
                [sys.executable, "-m", "workers.trainer", str(theirs.fileno()), str(os.getpid())],
                env=clean_environment(settings, self.folder, in_gang, number),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()
        self.start_watch = StartWatch(self.process.pid)
        assert self.process.stdout is not None
        self.output = TrainerOutput(self.process.stdout, self.process.pid)
        self.channel = Channel(ours)
        self.ready = False
        self.runs = 0
        self.peak = 0  # most bytes held during this run

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self, timeout: float) -> bool:
        """Return whether the trainer becomes ready within `timeout` seconds. Raises ChannelClosed if it has exited."""
        if not self.ready:
            message = self.channel.receive(timeout)
            self.ready = message is not None and message["type"] == "ready"
            if message is not None and message.get("unrestricted"):
                log.warning("a trainer has more rights than it needs", extra=message["unrestricted"])
        return self.ready

    def receive(self, timeout: float) -> Message | None:
        """Return the next message, or None after `timeout` seconds. Raises ChannelClosed."""
        return self.channel.receive(timeout)

    def measure_memory(self) -> int:
        """Return the resident bytes of the process, and update the peak."""
        try:
            resident = int(psutil.Process(self.process.pid).memory_info().rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return 0
        self.peak = max(self.peak, resident)
        return resident

    def kill(self) -> int:
        """Kill its whole process group. Returns the exit code, negative for a signal."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


class TrainerSlot:
    """Capacity for one run at a time, with a trainer kept warm for the next."""

    def __init__(self, settings: Settings, spawner: ThreadPoolExecutor, worker: str) -> None:
        self.settings = settings
        self.worker = worker  # the id of this slot in the table of workers
        self._number = int(number) if (number := worker.rpartition("-")[2]).isdecimal() else 0
        self._spawner = spawner
        self._trainer: TrainerProcess | None = None

    def warm(self, in_gang: bool = False) -> None:
        """Start a trainer unless one is alive; with `in_gang`, one that trains with others."""
        if self._trainer is not None and (not self._trainer.alive or self._trainer.in_gang != in_gang):
            self.drop()
        if self._trainer is None:
            self._trainer = TrainerProcess(self.settings, self._spawner, in_gang, self._number)

    def is_warm(self) -> bool:
        """Return whether a trainer is ready."""
        try:
            return self._trainer is not None and self._trainer.alive and self._trainer.wait_ready(0)
        except ChannelClosed:
            return False

    def trainer(self, while_waiting: Callable[[], None], in_gang: bool = False) -> TrainerProcess:
        """Return a ready trainer, calling `while_waiting` while it starts. Raises ChannelClosed if none starts."""
        for _ in range(3):
            self.warm(in_gang)
            assert self._trainer is not None
            try:
                while not self._trainer.wait_ready(0.1):
                    while_waiting()
                    if self._trainer.start_watch.is_hung():
                        log.warning("a trainer hangs while it starts")
                        raise ChannelClosed
                if self._trainer.alive:
                    self._trainer.runs += 1
                    self._trainer.peak = 0
                    self._trainer.output.forget()
                    return self._trainer
            except ChannelClosed:
                log.warning("a trainer did not start")
            self.drop()
        raise ChannelClosed

    def release(self, trainer: TrainerProcess) -> None:
        """Keep a trainer that has ended its run cleanly, unless it has trained many runs or has grown large."""
        try:
            deadline = time.monotonic() + 10
            while (message := trainer.receive(max(0.0, deadline - time.monotonic()))) is not None:
                if message["type"] == "idle":
                    large = message["resident"] > trainer.limit // 2
                    if not trainer.in_gang and trainer.runs < self.settings.trainer_runs and not large:
                        return
                    break
        except ChannelClosed:
            pass
        self.drop()
        self.warm()

    def drop(self) -> None:
        """Kill the trainer, if there is one."""
        if self._trainer is not None:
            self._trainer.kill()
            self._trainer = None
