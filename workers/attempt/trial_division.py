"""Divide a run's trials among idle workers; used by the attempt that holds the run.

Before each trial the trainer asks which is next. The remaining trials are then offered to idle workers; trials that no
worker has started are taken back one by one, so that the run never waits for a queue; and the files of finished trials
are handed over. All of this state is in the database: a supervisor that takes the run over after a crash continues from
there.
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
from fitserve.runs import blob_references, finish, queries, trial_runs, worker_registry
from fitserve.runs.lease import Claim, Lease
from fitserve.runs.trial_runs import TrialRun
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Epoch
from workers.expired_runs import reclaim_expired_runs
from workers.trainer.interface import TrialAssignment

log = logging.getLogger(__name__)

Publish = Callable[[str], bool]
MAX_OFFERED = 64  # trials of one run that are queued at once; the rest follow
MIN_TRIAL_SECONDS = 2.0  # a shorter trial is over before another worker has read the data and built the network
_PAGE = 1000  # epochs read at once
_OURS_AGAIN = (RunState.failed, RunState.cancelled)  # whatever the cause: the parent run trains that trial itself


def local_or_none(blobs: BlobStore, sha256: str | None, cache: Path) -> Path | None:
    """Return a local copy of a blob; None if it is lost. Training then starts over, with the same result."""
    if sha256 is None:
        return None
    try:
        return blobs.local(sha256, cache)
    except (NotFound, Corrupt) as error:
        log.error("a checkpoint or a trial's file cannot be read; it is trained again", extra={"error": str(error)})
        return None


def delete_blob(engine: Engine, blobs: BlobStore, sha256: str | None) -> None:
    """Delete a blob unless something refers to it. On failure, garbage collection will delete it."""
    if sha256 is not None:
        try:
            blob_references.delete_if_unreferenced(engine, blobs, sha256)
        except (FitserveError, OSError):
            log.info("a checkpoint or a trial's file is left to garbage collection")


@dataclass
class TrialDivision:
    """The division of one attempt's trials. Every method raises LeaseLost, and Unavailable without a database."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    claim: Claim
    worker: str
    publish: Publish
    _trial_runs: dict[int, TrialRun] = field(default_factory=dict)  # by trial, as last read
    _last_epoch: dict[int, int] = field(default_factory=dict)  # by trial, the last epoch that `new_epochs` yielded
    _complete: set[int] = field(default_factory=set)  # trials that will have no more epochs
    _trial_seconds: float | None = None  # estimated at first, then measured
    _trial_started_at: float | None = None

    def __post_init__(self) -> None:
        run = self.claim.run
        if (estimated := (run.estimates or {}).get("seconds")) is not None:
            trials = (run.resolved.get("training") or {}).get("restarts") or 1
            trials *= (run.resolved.get("search") or {}).get("trials") or 1
            # An ensemble's members are trials of one restart each.
            members = (run.resolved.get("ensemble") or {}).get("members") or 1
            self._trial_seconds = estimated / max(1, int(trials), int(members))

    @property
    def lease(self) -> Lease:
        return self.claim.lease

    def assign(self, remaining: Sequence[int]) -> TrialAssignment:
        """Return the trial that our trainer trains now, if any, and the files of trials that other workers finished."""
        if self._trial_started_at is not None:
            self._trial_seconds = time.monotonic() - self._trial_started_at
        assignment = self._choose(remaining)
        self._trial_started_at = None if assignment.trial is None else time.monotonic()
        return assignment

    def _choose(self, remaining: Sequence[int]) -> TrialAssignment:
        self._read_trial_runs()
        finished: dict[int, Path] = {}
        ours: list[int] = []
        for trial in remaining:
            trial_run = self._trial_runs.get(trial)
            if trial_run is None or trial_run.state in _OURS_AGAIN:
                ours.append(trial)
            elif trial_run.state == RunState.succeeded:
                path = self._local(trial_run.blob)
                if path is None:
                    ours.append(trial)
                else:
                    finished[trial] = path
        self._offer([trial for trial in ours[1:] if trial not in self._trial_runs])
        for trial in remaining:
            if trial in ours:
                return TrialAssignment(trial, finished=finished)
            if trial not in finished and self._trial_runs[trial].state == RunState.queued:
                taken = finish.withdraw_trial(self.engine, self.lease, self._trial_runs[trial].run_id)
                if taken is not None:
                    return TrialAssignment(trial, self._local(taken.checkpoint), finished)
        if not finished:
            # Other workers have all remaining trials. One of them may be lost, and we may be the only process to
            # notice.
            reclaim_expired_runs(self.engine, self.settings.max_attempts)
        return TrialAssignment(finished=finished)

    def new_epochs(self) -> Iterator[Epoch]:
        """Yield the epochs of divided trials that were committed since the last call."""
        if not self._trial_runs:
            return
        self._read_trial_runs()
        for trial, trial_run in self._trial_runs.items():
            if trial_run.attempt == 0 or trial in self._complete:
                continue
            while True:
                after = (trial, self._last_epoch.get(trial, 0))
                with db.reading(self.engine) as session:
                    rows = queries.epochs(session, trial_run.run_id, after=after, limit=_PAGE)
                for row in rows:
                    self._last_epoch[trial] = row.epoch
                    yield row
                if len(rows) < _PAGE:
                    break
            if trial_run.state not in (RunState.queued, RunState.running):
                self._complete.add(trial)

    def delete_files(self) -> None:
        """Delete the trials' files once the run is over: its result contains all that is needed of them."""
        for trial_run in self._trial_runs.values():
            delete_blob(self.engine, self.blobs, trial_run.blob)

    def _read_trial_runs(self) -> None:
        with db.reading(self.engine) as session:
            self._trial_runs = trial_runs.offered_trials(session, self.lease.run_id)

    def _offer(self, trials: Sequence[int]) -> None:
        if self._trial_seconds is not None and self._trial_seconds < MIN_TRIAL_SECONDS:
            return
        queued = sum(trial_run.state == RunState.queued for trial_run in self._trial_runs.values())
        trials = trials[: max(0, MAX_OFFERED - queued)]
        if not trials:
            return
        with db.reading(self.engine) as session:
            idle = worker_registry.count_idle(session, excluding=self.worker)
        if not idle:
            return
        offered = trial_runs.offer(self.engine, self.lease, trials)
        log.info("trials offered to idle workers", extra={"trials": len(offered), "idle": idle})
        for run_id in offered[:idle]:
            if not self.publish(run_id):
                break  # idle workers poll the queue too, and the dispatcher publishes again

    def _local(self, sha256: str | None) -> Path | None:
        return local_or_none(self.blobs, sha256, self.settings.scratch / "blobs")
