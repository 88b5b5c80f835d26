"""`python -m tests.faults.fork_server`: starts members fast, by forking a process that has imported everything.

Members are real processes: they have their own memory, engine and threads, all made after the fork. This saves two
seconds of imports for each of the hundreds that the harness kills.
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

from tests.waiting import PATIENCE

PRELOADED = (
    "workers.worker",
    "workers.reaper.reaper",
    "services.control.app",
    "uvicorn",
    "uvloop",
    "httptools",
    "kombu.transport.redis",
)
PROJECT = Path(__file__).resolve().parents[2]


class ForkedProcess:
    """A process that is not our child, with the part of Popen's interface that members need."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it runs, else 0: we cannot know the exit code of another process's child."""
        return None if self._process.is_running() and self._status() != psutil.STATUS_ZOMBIE else 0

    def _status(self) -> str:
        try:
            return str(self._process.status())
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

    def wait(self, timeout: float = PATIENCE) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.005)
        return 0


class ForkServer:
    """Our end of the connection to the fork server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.fork_server", str(theirs.fileno())],
                cwd=PROJECT,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._file = ours.makefile("rw")
        ours.close()

    def start(self, module: str, environment: dict[str, str], log: Path) -> ForkedProcess:
        with self._lock:
            self._file.write(json.dumps({"module": module, "environment": environment, "log": str(log)}) + "\n")
            self._file.flush()
            return ForkedProcess(int(self._file.readline()))


_servers: list[ForkServer] = []


def fork_server() -> ForkServer:
    """The fork server of this process, which ends with it."""
    if not _servers or _servers[-1].process.poll() is not None:
        _servers.append(ForkServer())
    return _servers[-1]


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps exited members
    channel = socket.socket(fileno=int(sys.argv[1])).makefile("rw")
    for line in channel:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            channel.close()
            run_module(request["module"], request["environment"], request["log"])
        channel.write(f"{pid}\n")
        channel.flush()


def run_module(module: str, environment: dict[str, str], log: str) -> None:
    """In the child: run the module's `main`, as if the process had just been started."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.environ.clear()
        os.environ.update(environment)
        if namespace := environment.get("FITSERVE_TEST_NETNS"):
            enter_network(namespace)
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


def enter_network(namespace: str) -> None:
    """Move this process into a network namespace, as `ip netns exec` does. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(descriptor, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(descriptor)


if __name__ == "__main__":
    main()
