"""A trainer's standard output and error, passed on to the worker's log without TensorFlow's notices.

The worker filters it, not the trainer, so that the last lines of a crashing process are not lost. They become part of
the failure.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import threading
import time
from collections import deque
from typing import IO

from fitserve.log_lines import printable

log = logging.getLogger(__name__)

MAX_LINE = 4096  # bytes; a longer line is passed on in pieces
MAX_TRACEBACK = 200  # lines
MAX_LINES, LINES_SECONDS = 2_000, 60.0  # logged at most in that time; a trainer that writes without end fills no disk
MAX_LAST_LINES = 5  # last lines that are remembered for the failure of a trainer that crashes
# Abseil's prefix: a letter, the date, the time, the thread, the source.
ABSEIL_LINE = re.compile(r"([IWEF])\d{4} [\d:.]++ ++\d++ [^\]\s]++\] ")
# Lines of every start, and advice to authors of TensorFlow programs.
NOTICE = re.compile(
    r"oneDNN (?:custom operations|supports)|before absl::InitializeLog|triggered tf\.function retracing"
)
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


class TrainerOutput:
    """Reader of one trainer's output until it closes, in a thread of its own."""

    def __init__(self, stream: IO[bytes], pid: int) -> None:
        self._stream = stream
        self._pid = pid
        self._last: deque[str] = deque(maxlen=MAX_LAST_LINES)
        self._began_at, self._logged, self._left_out = time.monotonic(), 0, 0
        self._thread = threading.Thread(target=self._pass_on, name="trainer-output", daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """Forget the last lines: the trainer's next run may have another owner, who must not see this run's output."""
        self._last.clear()

    def last_lines(self) -> list[str]:
        """Return the last lines of a trainer that has exited, after reading its output to the end."""
        self._thread.join(1)  # a process that the trainer started may hold the pipe open
        return list(self._last)

    def _pass_on(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character
        traceback: list[str] = []
        level: int | None = None
        is_new, is_within = True, False
        with self._stream:
            while piece := self._stream.readline(MAX_LINE):
                is_end = piece.endswith(b"\n")
                # Control characters are removed: terminals would obey them, and PostgreSQL's texts cannot contain NUL.
                text = printable(decoder.decode(piece, is_end)).rstrip()
                if is_new:  # a piece of a longer line is treated as the line's beginning was
                    is_within = text.startswith("Traceback ") or bool(traceback and text[:1].isspace())
                    level = logging.ERROR if is_within else level_of(text)
                is_new = is_end
                if is_within and len(traceback) < MAX_TRACEBACK:
                    traceback.append(text)  # it ends with the line of the exception, which is not indented
                elif text and level is not None:
                    self._log(level, text, traceback)
                    traceback = []
            if traceback:  # the trainer was killed within it
                self._log(logging.ERROR, traceback.pop(), traceback)
            self._report_left_out()

    def _log(self, level: int, text: str, traceback: list[str]) -> None:
        more = {"traceback": "\n".join([*traceback, text])} if traceback else {}
        self._last.append(text)
        now = time.monotonic()
        if now - self._began_at > LINES_SECONDS:
            self._report_left_out()
            self._began_at, self._logged = now, 0
        if self._logged >= MAX_LINES:
            self._left_out += 1
            return
        self._logged += 1
        log.log(logging.ERROR if traceback else level, text, extra={"trainer": self._pid, **more})

    def _report_left_out(self) -> None:
        if self._left_out:
            log.warning("trainer's lines left out", extra={"trainer": self._pid, "lines": self._left_out})
            self._left_out = 0


def level_of(line: str) -> int | None:
    """Return the level at which a line is logged; None if `TF_CPP_MIN_LOG_LEVEL` (2 by default) suppresses it.

    TensorFlow 2.21 does not obey that variable itself before its log is initialised, which Python never does.
    """
    wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
    least = int(wanted) if wanted.isdecimal() else 2
    if least > 0 and NOTICE.search(line):
        return None
    if (prefix := ABSEIL_LINE.match(line)) is None:
        return logging.WARNING
    return None if "IWEF".index(prefix[1]) < least else _LEVELS[prefix[1]]
