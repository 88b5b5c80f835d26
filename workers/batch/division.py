"""A batch prediction's parts divided among workers, from the side of the worker that holds the run.

Parts are runs of the kind `part`, offered to the other workers and taken back one by one while nobody has begun them,
as trials are. All of this state is in the database: a worker that takes the run over after a crash continues from
there.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from fitserve import db
from fitserve.datasets.destinations import StoredPart
from fitserve.runs import finish, queries, trial_runs, worker_registry
from fitserve.runs.lease import Lease
from fitserve.runs.trial_runs import TrialRun
from fitserve.states import RunKind, RunState
from workers.reaper import reclaim_expired_runs

log = logging.getLogger(__name__)

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
