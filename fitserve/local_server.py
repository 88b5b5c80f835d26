"""The local server's state file: `fitserve up` writes it to its folder, and other terminals read it.

`fitserve up` also holds a lock, which the kernel releases however the process ends. It distinguishes a running server
from a file left behind by a killed one.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fitserve.errors import Conflict, FitserveError

STATE = "server.json"
LOCK = "server.lock"
LOGS = "logs"
DEFAULT_HOME = "fitserve-data"
_READER_SECONDS = 0.3  # waits out a reader, which holds the lock for a moment
_STOP_SECONDS = 3.0  # waits out a stopping server, which holds the lock a little longer


@dataclass
class ServerPart:
    """One part of a server: `api`, `predict`, `reaper`, `worker-1`, ..., `broker` or `database`."""

    name: str
    pid: int | None = None
    ready: bool = False
    ready_url: str | None = None


@dataclass
class LocalServer:
    """A running server, as its state file describes it."""

    pid: int
    home: str
    base_url: str
    predict_url: str
    started_at: float  # seconds since 1970
    version: str
    ready: bool = False
    stopping: bool = False
    waits_for: str = ""  # what a stopping server is waiting for
    log: str | None = None  # the folder of its logs
    process_start: str | None = None  # distinguishes the process from a later one with the same id
    parts: list[ServerPart] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address of the pages."""
        return f"{self.base_url}/"

    def is_this_process(self) -> bool:
        """Return whether its process can be signalled from here; one in another container or machine cannot."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return self.process_start is None or self.process_start == process_start(self.pid)


class AlreadyRunning(Conflict):
    """Raised where a server already runs from this folder."""

    slug = "already-running"
    title = "Already running"


def home_here() -> Path:
    """Return FITSERVE_HOME, else ./fitserve-data."""
    return Path(os.environ.get("FITSERVE_HOME") or DEFAULT_HOME)


def process_start(pid: int) -> str | None:
    """Return the boot id and start time of a process; None if the system has no /proc."""
    try:
        moment = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{moment}"
    except (OSError, IndexError):
        return None


def find(home: Path | None = None) -> LocalServer | None:
    """Return the server that runs from a folder (by default this terminal's); None if there is none."""
    folder = home or home_here()
    return _read(folder) if is_locked(folder) else None


def is_locked(home: Path) -> bool:
    """Return whether a server holds the folder."""
    try:
        import fcntl

        descriptor = os.open(home / LOCK, os.O_RDONLY)
    except (ImportError, OSError):  # Windows has only the client; or no server has ever run here
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _read(home: Path) -> LocalServer | None:
    """Return the state file's content; None if it is missing or not ours."""
    try:
        value: dict[str, Any] = json.loads((home / STATE).read_text())
        return LocalServer(**{**value, "parts": [ServerPart(**part) for part in value.get("parts", ())]})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write(home: Path, server: LocalServer) -> None:
    """Replace the state file atomically, so that readers see either the old or the new content."""
    descriptor, name = tempfile.mkstemp(prefix=f".{STATE}.", dir=home)  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(server), file, indent=1)
    Path(name).replace(home / STATE)


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Hold a folder for one server until the block ends. Raises AlreadyRunning with the other's address."""
    descriptor = _lock(home)
    try:
        yield
    finally:
        for path in (home / STATE, *home.glob(f".{STATE}.*")):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(home: Path) -> int:
    import fcntl

    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FitserveError(
            f"The folder {home} cannot be used: {error.strerror}.", fix="Choose another: fitserve up --home FOLDER"
        ) from None
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            other = _read(home)
            if time.monotonic() - began > (_STOP_SECONDS if other and other.stopping else _READER_SECONDS):
                os.close(descriptor)
                raise _already_running(home, other) from None
            time.sleep(0.05)
        except OSError:  # a file system without locks; a second server then fails on its ports
            return descriptor


def _already_running(home: Path, other: LocalServer | None) -> AlreadyRunning:
    if other is None:
        return AlreadyRunning(f"A server is starting from {home}.", fix="See it: fitserve status")
    state = "is stopping" if other.stopping else "already runs" if other.ready else "is already starting"
    with contextlib.suppress(ValueError):
        home = home.resolve().relative_to(Path.cwd())
    return AlreadyRunning(
        f"A server {state} from {home}: {other.address} (process {other.pid}).",
        fix="See it: fitserve status    Stop it: fitserve down",
    )
