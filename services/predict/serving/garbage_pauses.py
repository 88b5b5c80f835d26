"""Pause Python's garbage collection while large requests are answered.

A full collection visits every row of a large body and blocks all threads and the event loop: with 24 MB of JSON, up to
0.2 s, several times. Rows form no cycles, so they are freed without it.
"""

from __future__ import annotations

import asyncio
import gc

MAX_PAUSE_SECONDS = 30.0  # longest pause: if large requests take longer or overlap, garbage is collected meanwhile
RESUME_SECONDS = 1.0  # after the last large request, when its rows are gone


class GarbagePauses:
    """Counts this process's large requests, and pauses collection. Only the event loop's thread may call it."""

    def __init__(self) -> None:
        self._large = 0  # large requests in progress
        self._limit: asyncio.TimerHandle | None = None  # ends this pause at its limit; a new one may begin then

    def begin(self) -> None:
        """Count a large request in. The first of several begins the pause."""
        self._large += 1
        if self._limit is None:
            self._limit = asyncio.get_running_loop().call_later(MAX_PAUSE_SECONDS, gc.enable)
            gc.disable()

    def end(self) -> None:
        """Count a large request out. The pause ends soon after the last one."""
        self._large -= 1
        if not self._large:
            asyncio.get_running_loop().call_later(RESUME_SECONDS, self._resume)

    def stop(self) -> None:
        """End the pause, because the event loop and its timers are ending."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
            gc.enable()

    def _resume(self) -> None:
        if not self._large:
            self.stop()
