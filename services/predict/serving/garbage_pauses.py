"""Pauses of Python's garbage collection while large requests are answered.

A full collection looks at every row of a large body, and no other thread runs meanwhile, nor does the event loop: of
24 MB of JSON it took up to 0.2 s, several times. Rows are in no cycles, so they are freed without it.
"""

from __future__ import annotations

import asyncio
import gc

MAX_PAUSE_SECONDS = 30.0  # where large requests take longer, or follow each other, garbage is collected beside them
RESUME_SECONDS = 1.0  # after the last large request, when its rows are gone


class GarbagePauses:
    """The large requests of this process. Only the event loop's thread calls its methods."""

    def __init__(self) -> None:
        self._large = 0  # requests at the moment
        self._limit: asyncio.TimerHandle | None = None  # of the pause; a new one begins after it

    def begin(self) -> None:
        """Take note of a large request. The first of several begins the pause."""
        self._large += 1
        if self._limit is None:
            self._limit = asyncio.get_running_loop().call_later(MAX_PAUSE_SECONDS, gc.enable)
            gc.disable()

    def end(self) -> None:
        """Take note that a large request is answered. Soon after the last of several the pause is over."""
        self._large -= 1
        if not self._large:
            asyncio.get_running_loop().call_later(RESUME_SECONDS, self._resume)

    def stop(self) -> None:
        """End the pause: the event loop, and its timers, end."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
            gc.enable()

    def _resume(self) -> None:
        if not self._large:
            self.stop()
