"""A run's trials divided among workers, as the supervisor that holds the run sees it.

Before each trial the trainer asks which is next. Then idle workers are offered what is left; what none of them has
begun is taken back one by one, so that nothing waits for a queue; and what they have ended is handed over. All of
this is in the rows: a supervisor that takes the run up after a crash goes on from them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from fitserve import db
from fitserve.blobs import BlobStore, Corrupt
from fitserve.errors import FitserveError, NotFound
from fitserve.runs import blob_references, finish, queries, trial_runs, worker_rows
from fitserve.runs.lease import Claim, Lease
from fitserve.runs.trial_runs import Part
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Epoch
from workers import lost_runs
from workers.trainer.job import Turn

log = logging.getLogger(__name__)

Publish = Callable[[str], bool]
MOST_OFFERED = 64  # trials of one run that are offered at once; the rest follow
WORTH_SECONDS = 2.0  # of a trial: one that is shorter is done before a helper has read the data and built the network
_PAGE = 1000  # epochs that are read at once
_NOT_DONE = (RunState.failed, RunState.cancelled)  # whatever the cause: its run trains that trial itself


@dataclass
class Division:
    """Of one attempt at a run. Every call raises LeaseLost, and Unavailable where the database is away."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    claim: Claim
    worker: str
    publish: Publish
    _parts: dict[int, Part] = field(default_factory=dict)  # as last seen
    _shown: dict[int, int] = field(default_factory=dict)  # by trial, the last epoch that the run shows as well
    _closed: set[int] = field(default_factory=set)  # trials of which no epoch will follow
    _seconds: float | None = None  # that a trial takes: estimated, then as the last one took
    _begun_at: float | None = None

    def __post_init__(self) -> None:
        run = self.claim.run
        if (estimated := (run.estimates or {}).get("seconds")) is not None:
            self._seconds = estimated / max(1, int(run.resolved.get("training", {}).get("restarts") or 1))

    @property
    def lease(self) -> Lease:
        return self.claim.lease

    def turn(self, todo: Sequence[int]) -> Turn:
        """Which of these trials the trainer is to train now, and what others have made of the rest."""
        if self._begun_at is not None:
            self._seconds = time.monotonic() - self._begun_at
        turn = self._turn(todo)
        self._begun_at = None if turn.trial is None else time.monotonic()
        return turn

    def _turn(self, todo: Sequence[int]) -> Turn:
        self._look()
        done: dict[int, Path] = {}
        ours: list[int] = []
        for trial in todo:
            part = self._parts.get(trial)
            if part is None or part.state in _NOT_DONE:
                ours.append(trial)
            elif part.state == RunState.succeeded:
                path = self._fetch(part.blob)
                if path is None:
                    ours.append(trial)
                else:
                    done[trial] = path
        self._offer([trial for trial in ours[1:] if trial not in self._parts])
        for trial in todo:
            if trial in ours:
                return Turn(trial, done=done)
            if trial not in done and self._parts[trial].state == RunState.queued:
                taken = finish.take_back(self.engine, self.lease, self._parts[trial].run_id)
                if taken is not None:
                    return Turn(trial, self._fetch(taken.checkpoint), done)
        if not done:
            lost_runs.take_back(self.engine, self.settings.max_attempts)  # we may be the only one that looks
        return Turn(done=done)

    def new_epochs(self) -> Iterator[Epoch]:
        """Epochs of trials that others train, which the run does not show yet: to the last one that is a row now."""
        if not self._parts:
            return
        self._look()
        for trial, part in self._parts.items():
            if part.attempt == 0 or trial in self._closed:
                continue
            while True:
                after = (trial, self._shown.get(trial, 0))
                with db.reading(self.engine) as session:
                    rows = queries.epochs(session, part.run_id, after=after, limit=_PAGE)
                for row in rows:
                    self._shown[trial] = row.epoch
                    yield row
                if len(rows) < _PAGE:
                    break
            if part.state not in (RunState.queued, RunState.running):
                self._closed.add(trial)

    def forget(self) -> None:
        """What came of the trials is part of the run by now, which has ended: their files may go."""
        for part in self._parts.values():
            if part.blob is not None:
                try:
                    blob_references.discard(self.engine, self.blobs, part.blob)
                except (FitserveError, OSError):
                    log.info("a trial's file stays until it is collected")

    def _look(self) -> None:
        with db.reading(self.engine) as session:
            self._parts = trial_runs.parts(session, self.lease.run_id)

    def _offer(self, trials: Sequence[int]) -> None:
        if self._seconds is not None and self._seconds < WORTH_SECONDS:
            return
        queued = sum(part.state == RunState.queued for part in self._parts.values())
        trials = trials[: max(0, MOST_OFFERED - queued)]
        if not trials:
            return
        with db.reading(self.engine) as session:
            idle = worker_rows.idle(session, but=self.worker)
        if not idle:
            return
        made = trial_runs.offer(self.engine, self.lease, trials)
        log.info("trials are offered to idle workers", extra={"trials": len(made), "idle": idle})
        for part_id in made[:idle]:
            if not self.publish(part_id):
                break  # they look for themselves now and then, and the dispatcher publishes again

    def _fetch(self, sha256: str | None) -> Path | None:
        """A local file, or None where its bytes are gone: that costs time and no truth."""
        if sha256 is None:
            return None
        try:
            return self.blobs.local(sha256, self.settings.scratch / "blobs")
        except (NotFound, Corrupt) as error:
            log.error("a trial's file cannot be used", extra={"error": str(error)})
            return None
