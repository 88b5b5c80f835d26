"""The logs of all parts: a file for each, bounded, and what is new in them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fitserve.errors import FitserveError

MAX_BYTES = 4_000_000  # size at which a file is rotated
OLDER = 2  # rotated files kept for each part
_READ_BYTES = 1_000_000  # at once


class LogFiles:
    """One file for each part in one folder. Processes append to them themselves, so none of them waits for us."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._others: list[Path] = []
        self._position: dict[str, int] = {}
        self._rest: dict[str, bytes] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise FitserveError(f"The folder {folder} cannot be used: {error.strerror}.") from None

    def path(self, name: str) -> Path:
        """Return the path of one part's log file."""
        return self.folder / f"{name}.log"

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Yield a descriptor that appends to a part's file. What was in it before is not new."""
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._position.setdefault(name, os.fstat(descriptor).st_size)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def bound_too(self, path: Path) -> None:
        """Keep a file bounded that another program appends to."""
        self._others.append(path)

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """Yield (part, line) for what the parts have logged since the last call; then bound the files."""
        for name in list(self._position):
            for line in self._new_lines_of(name):
                yield name, line
            self._bound(self.path(name), name)
        for path in self._others:
            self._bound(path, None)

    def _new_lines_of(self, name: str) -> list[str]:
        try:
            with self.path(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._position[name]:  # someone has emptied it
                    self._position[name] = 0
                if size == self._position[name]:
                    return []
                file.seek(self._position[name])
                data = file.read(_READ_BYTES)
        except OSError:
            return []
        self._position[name] += len(data)
        *lines, self._rest[name] = (self._rest.get(name, b"") + data).split(b"\n")
        if len(self._rest[name]) > _READ_BYTES:
            lines, self._rest[name] = [*lines, self._rest[name]], b""
        return [line.decode(errors="replace") for line in lines]

    def _bound(self, path: Path, name: str | None) -> None:
        """Copy a file that has grown too large to the older one, and empty it: its writers have it open."""
        with contextlib.suppress(OSError):
            if path.stat().st_size <= MAX_BYTES or (name and self._position[name] < path.stat().st_size):
                return
            for number in range(OLDER, 1, -1):
                older = Path(f"{path}.{number - 1}")
                if older.exists():
                    older.replace(f"{path}.{number}")
            shutil.copyfile(path, f"{path}.1")
            Path(f"{path}.1").chmod(0o600)
            os.truncate(path, 0)
            if name:
                self._position[name] = 0
