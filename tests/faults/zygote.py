"""`python -m tests.faults.zygote`: starts members fast, by forking a process that has imported everything.

The members are real processes all the same: own memory, own engine, own threads, made after the fork. What is
saved is two seconds of imports for each of the hundreds that the harness kills.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

PRELOADED = (
    "workers.__main__",
    "workers.reaper",
    "services.control.app",
    "uvicorn",
    "uvloop",
    "httptools",
    "kombu.transport.redis",
)
PROJECT = Path(__file__).resolve().parents[2]


class Forked:
    """A process that is not our child, with the part of Popen's interface that members use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._seen = psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it lives. The exit code of somebody else's child is not ours to know: 0."""
        return None if self._seen.is_running() and self._status() != psutil.STATUS_ZOMBIE else 0

    def _status(self) -> str:
        try:
            return str(self._seen.status())
        except psutil.NoSuchProcess:
            return str(psutil.STATUS_ZOMBIE)

    def send_signal(self, number: int) -> None:
        if self.poll() is not None:
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 60) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.005)
        return 0


class Zygote:
    """Our end: asks it to fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.zygote", str(theirs.fileno())],
                cwd=PROJECT,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._file = ours.makefile("rw")
        ours.close()

    def start(self, module: str, environment: dict[str, str], log: Path) -> Forked:
        with self._lock:
            self._file.write(json.dumps({"module": module, "environment": environment, "log": str(log)}) + "\n")
            self._file.flush()
            return Forked(int(self._file.readline()))


_zygotes: list[Zygote] = []


def zygote() -> Zygote:
    """The one of this process; it goes when we go."""
    if not _zygotes or _zygotes[-1].process.poll() is not None:
        _zygotes.append(Zygote())
    return _zygotes[-1]


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries members
    channel = socket.socket(fileno=int(sys.argv[1])).makefile("rw")
    for line in channel:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            channel.close()
            become(order["module"], order["environment"], order["log"])
        channel.write(f"{pid}\n")
        channel.flush()


def become(module: str, environment: dict[str, str], log: str) -> None:
    """In the child: the program that was asked for, as if it had just been started."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.environ.clear()
        os.environ.update(environment)
        sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.argv = [module]
        from tests.faults import mutants

        if (name := environment.get("FITSERVE_TEST_MUTANT")) in mutants.MUTANTS:
            mutants.MUTANTS[str(name)]()
        importlib.import_module(module).main()
    except SystemExit:
        pass
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
