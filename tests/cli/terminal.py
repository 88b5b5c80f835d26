"""A program in its own terminal, with the screen as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

from tests.needs import need
from tests.waiting import PATIENCE

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b.")


class Terminal:
    """The command line in a terminal, or another program of this Python."""

    def __init__(
        self,
        *words: str,
        program: Sequence[str] = ("-m", "fitserve.cli"),
        environment: Mapping[str, str] | None = None,
        columns: int = 100,
    ) -> None:
        need("pseudo-terminals")
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        variables = {**os.environ, "TERM": "xterm-256color", **(environment or {})}
        variables.pop("COLUMNS", None)
        command = [sys.executable, "-c", _WITH_TERMINAL, sys.executable, *program, *words]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def until(self, words: str, seconds: float = PATIENCE) -> None:
        """Read until these words have come."""
        deadline = time.monotonic() + seconds
        while words not in self.plain:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{words!r} did not come:\n{self.text[-2000:]}"
            assert self._read() or words in self.plain, f"{words!r} did not come:\n{self.text[-2000:]}"

    def read_for(self, seconds: float) -> None:
        """Read what comes within that time."""
        if select.select([self.master], [], [], seconds)[0]:
            self._read()

    def _read(self) -> bool:
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the program has ended
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def press_ctrl_c(self) -> None:
        """Send what the key sends: the terminal interrupts the program in its foreground."""
        os.write(self.master, b"\x03")

    @property
    def plain(self) -> str:
        """What has been printed, without colours and movements."""
        return _CONTROL.sub("", self.text)

    @property
    def lines(self) -> list[str]:
        """Every line that was printed, also those that were overwritten."""
        return re.split(r"[\r\n]+", self.plain)

    def end(self, seconds: float = PATIENCE) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + seconds
        while select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0] and self._read():
            pass
        code = self.process.wait(max(1.0, deadline - time.monotonic()))
        os.close(self.master)
        return code


# A session leader without a terminal takes this one as its controlling terminal; then it becomes the program. Of tests
# that run in the background, it would inherit that Ctrl-C is ignored.
_WITH_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
