"""Runs in parts that other workers may do, batch predictions and imports, from the side of the worker that holds one.

Parts are runs of the kind `part`, offered to the other workers and taken back one by one while nobody has begun them,
as trials are. All of this state is in the database: a worker that takes the run over after a crash continues from
there.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from sqlalchemy import Engine

from fitserve import db
from fitserve.datasets.destinations import StoredPart
from fitserve.errors import Unavailable
from fitserve.runs import finish, queries, trial_runs, worker_registry
from fitserve.runs.lease import Lease
from fitserve.runs.trial_runs import TrialRun
from fitserve.states import RunKind, RunState
from workers.attempt.outcome import RETRY_SECONDS
from workers.reaper import reclaim_expired_runs
from workers.side_attempt import Interrupted, SideAttempt

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL = 0.1  # seconds between looks at the parts of other workers
MAX_OFFERED = 64  # parts of one run that are queued at once; the rest follow
_OURS_AGAIN = (RunState.failed, RunState.cancelled)  # whatever the cause: the run predicts that part itself


@dataclass(frozen=True)
class Assignment:
    """What is next: a part for this worker, with the blob that another one made of it; and what others finished."""

    own: int | None = None
    blob: str | None = None
    finished: dict[int, StoredPart] = field(default_factory=dict)


@dataclass
class PartDivision:
    """The division of one attempt's parts. Every call raises LeaseLost, and Unavailable without a database."""

    engine: Engine
    lease: Lease
    max_attempts: int

    def assign(self, remaining: Sequence[int]) -> Assignment:
        """Return which of the remaining parts the holder predicts now; none while others have all of them."""
        parts = self._read()
        finished: dict[int, StoredPart] = {}
        ours = []
        for number in remaining:
            part = parts.get(number)
            if part is None or part.state in _OURS_AGAIN:
                ours.append(number)
            elif part.state == RunState.succeeded:
                finished[number] = self._result(part)
        queued = [parts[number] for number in remaining if number in parts and parts[number].state == RunState.queued]
        self._offer([number for number in ours[1:] if number not in parts], len(queued))
        if ours:
            return Assignment(ours[0], finished=finished)
        for part in queued:
            taken = finish.withdraw_trial(self.engine, self.lease, part.run_id)
            if taken is not None:
                return Assignment(part.trial, taken.checkpoint, finished)
        if not finished:
            # All that remain are with other workers. One may be lost, and we may be the only process to notice.
            reclaim_expired_runs(self.engine, self.max_attempts)
        return Assignment(finished=finished)

    def next_number(self) -> int:
        """Return a number above those of all parts that were ever offered."""
        return max(self._read(), default=-1) + 1

    def end(self) -> bool:
        """Cancel what others have, before the run ends. Return whether all of them have stopped."""
        finish.cancel_divided(self.engine, self.lease)
        reclaim_expired_runs(self.engine, self.max_attempts)
        return all(part.state != RunState.running for part in self._read().values())

    def _read(self) -> dict[int, TrialRun]:
        with db.reading(self.engine) as session:
            return trial_runs.offered_trials(session, self.lease.run_id, RunKind.part)

    def _result(self, part: TrialRun) -> StoredPart:
        with db.reading(self.engine) as session:
            result = queries.get(session, part.run_id).result or {}
        return StoredPart(part.trial, result["rows"], result["blob"], result["bytes"])

    def _offer(self, parts: Sequence[int], queued: int) -> None:
        parts = parts[: max(0, MAX_OFFERED - queued)]
        if not parts:
            return
        with db.reading(self.engine) as session:
            others = worker_registry.count_others(session, platform.node(), os.getpid())
        if others:
            offered = trial_runs.offer(self.engine, self.lease, parts, RunKind.part)
            log.info("parts offered to other workers", extra={"parts": len(offered), "workers": others})


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
