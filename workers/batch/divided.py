"""An attempt at a run in parts, which other workers may do: batch predictions and imports."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from fitserve.datasets.destinations import StoredPart
from fitserve.errors import Unavailable
from workers.attempt.outcome import RETRY_SECONDS
from workers.batch.division import PartDivision
from workers.side_attempt import Interrupted, SideAttempt

POLL = 0.1  # seconds between looks at the parts of other workers
T = TypeVar("T")


class DividedAttempt(SideAttempt):
    """One attempt at a run in parts. Each part is a blob before the run's checkpoint names it."""

    _division: PartDivision | None = None

    def _divide(self) -> PartDivision:
        self._division = PartDivision(self.engine, self.claim.lease, self.settings.max_attempts)
        return self._division

    def _do_all(self, division: PartDivision, numbers: Sequence[int], done: dict[int, StoredPart]) -> None:
        """Do the parts that are not in `done`, or take them over from other workers, until all are."""
        while remaining := [number for number in numbers if number not in done]:
            if self._is_interrupted:
                raise Interrupted
            assignment = self._patiently(partial(division.assign, remaining))
            if assignment.finished:
                done.update(assignment.finished)
                self._patiently(self._record)
            if assignment.own is not None:
                done[assignment.own] = self._do_part(assignment.own, assignment.blob)
                self._patiently(self._record)
            elif not assignment.finished:
                time.sleep(POLL)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; repeat it while the database or the blob store is away.

        Not for longer than the lease holds without a database: an attempt that has lost it is of no use.
        """
        until = time.monotonic() + self.settings.lease_seconds
        while True:
            try:
                return work()
            except Unavailable as error:
                if type(error) is not Unavailable or self._is_interrupted or time.monotonic() > until:
                    raise
            time.sleep(RETRY_SECONDS)

    @abstractmethod
    def _do_part(self, number: int, blob: str | None) -> StoredPart:
        """Do one part, unless another worker that had it has left its blob."""

    @abstractmethod
    def _record(self) -> None:
        """Record in the run's checkpoint and events which parts are done."""
