"""Runs in parts, batch predictions and imports, divided among workers: the side of the worker that holds the run.

Parts are runs of kind `part`, offered to other workers and taken back one by one while no worker has started them, as
trials are. All of this state is in the database: a worker that takes the run over after a crash continues from there.
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
from workers.expired_runs import reclaim_expired_runs
from workers.side_attempt import Interrupted, SideAttempt

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL = 0.1  # seconds between two checks of other workers' parts
MAX_OFFERED = 64  # parts of one run that are queued at once; the rest follow
_OURS_AGAIN = (RunState.failed, RunState.cancelled)  # whatever the cause: the parent run does that part itself


@dataclass(frozen=True)
class Assignment:
    """The next step: a part for this worker, with a blob stored for it before, and the parts that others finished."""

    own: int | None = None
    blob: str | None = None
    finished: dict[int, StoredPart] = field(default_factory=dict)


@dataclass
class PartDivision:
    """One attempt's parts, divided among workers. Every method raises LeaseLost, and Unavailable without a database."""

    engine: Engine
    lease: Lease
    max_attempts: int

    def assign(self, remaining: Sequence[int]) -> Assignment:
        """Return which of the remaining parts this worker does now; none while other workers have all of them."""
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
            # Other workers have all remaining parts. One may be lost, and we may be the only process to notice.
            reclaim_expired_runs(self.engine, self.max_attempts)
        return Assignment(finished=finished)

    def next_number(self) -> int:
        """Return a part number above all that were ever offered."""
        return max(self._read(), default=-1) + 1

    def end(self) -> bool:
        """Cancel other workers' parts before the run ends. Return whether all of them have stopped."""
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
        """Finish all parts that are not in `done`: do them here, or collect them from other workers."""
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
        """Do `work` and return its result, retrying while the database or the blob store is unavailable.

        Stop when the lease expires: an attempt that has lost it can commit nothing.
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
        """Do one part, unless a worker that had it before has stored its blob."""

    @abstractmethod
    def _record(self) -> None:
        """Record in the run's checkpoint and events which parts are done."""
