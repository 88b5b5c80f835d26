"""Forked processes that die at crash points and are replaced until every crash has happened."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

FORK = multiprocessing.get_context("fork")


class CrashFleet:
    """Some processes that run `work(*arguments)`; each of `points` kills one of them `times` times."""

    def __init__(
        self, points: Sequence[str], times: int, count: int, folder: Path, work: Callable[..., None], *arguments: Any
    ) -> None:
        self.points, self.times, self.deaths = points, times, 0
        self.tokens = folder / "tokens"  # a file for each crash that is still to come
        self.tokens.mkdir()
        for point in points:
            for number in range(times):
                (self.tokens / f"{point}.{number}").touch()
        self._work, self._arguments = work, arguments
        self._processes = [self._start() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def _start(self) -> multiprocessing.process.BaseProcess:
        process = FORK.Process(target=self._run, daemon=True)
        process.start()
        return process

    def _run(self) -> None:
        os.environ["FITSERVE_TEST_HOOKS"] = "1"
        os.environ["FITSERVE_CRASH_AT"] = ",".join(self.points)
        os.environ["FITSERVE_CRASH_TOKENS"] = str(self.tokens)
        self._work(*self._arguments)

    @property
    def crashes_to_come(self) -> int:
        return len(list(self.tokens.iterdir()))

    def replace_dead(self) -> None:
        """Start a process for each that has died."""
        for place, process in enumerate(self._processes):
            if not process.is_alive():
                self.deaths += 1
                self._processes[place] = self._start()

    def assert_all_died(self) -> None:
        """Check that every crash killed a process; those that died last were not replaced."""
        assert self.crashes_to_come == 0
        assert self.deaths >= len(self.points) * self.times - len(self._processes)
