"""One attempt at a run without a trainer process: hold the lease, do the work, end or requeue the run.

Batch predictions, imports, exports and cleanups are such runs. `workers/attempt/attempt.py` is for runs that a trainer
process trains: training runs, their trials and helpers.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitserve import telemetry
from fitserve.blobs import BlobStore, Corrupt, StoredBlob
from fitserve.datasets.destinations import DestinationAway, DestinationRefused
from fitserve.datasets.sources.connections import SourceRefused
from fitserve.datasets.sources.fetched import SourceAway
from fitserve.errors import BadInput, Conflict, FitserveError, NotFound, StorageFull, TooLarge, UnsupportedMedia
from fitserve.runs import cleanup, finish, lease
from fitserve.runs.history import EventReport, Level, Report
from fitserve.runs.lease import LeaseLost, StoredCheckpoint
from fitserve.settings import Settings
from fitserve.states import INTERNAL_KINDS, TERMINAL, FailureCause, RunState
from workers.attempt.outcome import commit_outcome

log = logging.getLogger(__name__)

# Parts of an error that the run's problem repeats.
_PROBLEM_FIELDS = ("type", "status", "pointer", "received", "expected", "fix")
_CAUSE_BY_SLUG = {  # causes of final errors; any other is attributed to the data
    DestinationRefused.slug: FailureCause.destination_refused,
    SourceRefused.slug: FailureCause.source_refused,
}


def _problem_of(error: FitserveError) -> dict[str, Any]:
    """Return an error's fields for the run's problem, so that clients raise the same error."""
    problem = error.as_problem()
    return {key: problem[key] for key in _PROBLEM_FIELDS if key in problem}


class DeterministicFailure(Exception):
    """The work failed and a retry would fail too. For trainers, the same is an `AttemptFailed` with `final`."""

    def __init__(self, cause: FailureCause, detail: str, evidence: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.cause, self.detail, self.evidence = cause, detail, evidence


class Interrupted(Exception):
    """The lease is lost, a cancel was requested, or this worker is shutting down."""


@dataclass
class SideAttempt(ABC):
    """One attempt at one run whose work is done by this process, or by a child process that is no trainer."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    claim: lease.Claim
    stopping: threading.Event
    _lost: bool = False
    _cancel: bool = False
    _reported: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> RunState | None:
        """Do the work, then end the run, requeue it, or leave it to its next holder.

        Returns the state in which this attempt left the run; None if the lease was lost.
        """
        started = time.monotonic()
        folder = self.settings.scratch / "runs" / f"{self.claim.lease.run_id}-{self.claim.lease.attempt}"
        folder.mkdir(parents=True, exist_ok=True)
        renewing = threading.Thread(target=self._renew_lease, name="heartbeat", daemon=True)
        renewing.start()
        state: RunState | None = None
        try:
            state = self._work_and_commit(folder)
        except LeaseLost:
            log.warning("lease lost", extra={"run": self.claim.lease.run_id})
        finally:
            self._over.set()
            renewing.join()
            shutil.rmtree(folder, ignore_errors=True)
            if self.claim.run.kind not in INTERNAL_KINDS:
                telemetry.RUN_SECONDS.observe(time.monotonic() - started)
            if state in TERMINAL and self.claim.run.kind not in INTERNAL_KINDS:
                telemetry.RUNS_FINISHED.labels(str(state)).inc()
        return state

    def _work_and_commit(self, folder: Path) -> RunState | None:
        try:
            result, stored = self._work(folder)
            # A brief outage of the database must not discard work that may have taken hours.
            patience = self.settings.graceful_seconds
            succeed = partial(self._succeed, result, stored)
            return commit_outcome(self.engine, self.claim.lease, succeed, self.stopping, patience)
        except (Interrupted, finish.CancelledFirst) as error:
            if self._lost:
                raise LeaseLost(self.claim.lease.run_id) from error
            if self._cancel or isinstance(error, finish.CancelledFirst):
                remains = self._undo()
                reports = self._reports_of_undoing(remains)
                return finish.confirm_cancel(self.engine, self.claim.lease, reports, clean=remains == [])
            return finish.release(self.engine, self.claim.lease)
        except DeterministicFailure as error:
            return self._fail(error.cause, error.detail, error.evidence)
        except (BadInput, NotFound, Corrupt, Conflict, TooLarge, UnsupportedMedia) as error:
            evidence = _problem_of(error)
            evidence["errors"] = [problem.as_dict() for problem in error.problems]
            return self._fail(_CAUSE_BY_SLUG.get(error.slug, FailureCause.bad_data), error.detail, evidence)
        except LeaseLost:
            raise
        except Exception as error:
            return self._lose(error)

    def _succeed(self, result: Mapping[str, Any], stored: Mapping[str, StoredBlob]) -> RunState:
        """Commit the result (T4). Raises LeaseLost, CancelledFirst."""
        return finish.succeed(
            self.engine, self.claim.lease, result, blobs=self.blobs, stored=stored, register=self._register
        )

    def _fail(self, cause: FailureCause, detail: str, evidence: Mapping[str, Any]) -> RunState:
        remains = self._undo()
        result = {} if remains is None else {"remains": remains}
        facts = {**evidence, **result}
        state = finish.fail(self.engine, self.claim.lease, cause, detail, facts, clean=remains == [])
        if state == RunState.failed and self.claim.run.kind not in INTERNAL_KINDS:
            telemetry.RUN_FAILURES.labels(cause).inc()
        return state

    def _lose(self, error: Exception) -> RunState:
        """Spend this attempt on an error that a retry may not meet."""
        cause = FailureCause.internal_error
        if isinstance(error, DestinationAway | SourceAway):
            away = isinstance(error, SourceAway)
            cause = FailureCause.source_away if away else FailureCause.destination_away
            log.warning("the other side is away", extra={"run": self.claim.lease.run_id, "error": error.detail})
        elif isinstance(error, StorageFull):
            cause = FailureCause.disk_full
            log.warning("the disk is full", extra={"run": self.claim.lease.run_id})
        else:
            log.exception("the attempt failed", extra={"run": self.claim.lease.run_id})
        detail = error.detail if isinstance(error, FitserveError) else f"The worker failed: {type(error).__name__}"
        most = self.settings.max_attempts
        remains = self._undo() if self.claim.run.spent_attempts + 1 >= most else None
        facts = _problem_of(error) if isinstance(error, FitserveError) else {}
        facts |= {} if remains is None else {"remains": remains}
        detail = detail.rstrip(".")
        state = finish.lose(self.engine, self.claim.lease, most, cause, detail, facts, clean=remains == [])
        if state == RunState.failed and self.claim.run.kind not in INTERNAL_KINDS:
            telemetry.RUN_FAILURES.labels(cause).inc()
        return state

    def _undo(self) -> list[str] | None:
        """Remove everything written outside the database and blob store, before the run ends without a result.

        Returns what could not be removed; None if that is unknown, or if nothing is ever written outside.
        """
        return None

    def _reports_of_undoing(self, remains: list[str] | None) -> tuple[Report, ...]:
        if remains is None:
            return ()
        return (self._report("warn" if remains else "info", cleanup.describe(remains), {"remains": remains}),)

    def _register(self, session: Session) -> Mapping[str, Any]:
        """Write rows that belong to the result, in its transaction. Returns fields to add to the result."""
        return {}

    def _report(self, level: Level, message: str, data: dict[str, Any]) -> EventReport:
        """Build the attempt's next event."""
        self._reported += 1
        return EventReport(self._reported, level, message, data)

    def _renew_lease(self) -> None:
        """Renew the lease while the work is done."""
        while not self._over.wait(self.settings.heartbeat_seconds):
            try:
                self._write(())
            except LeaseLost:
                return
            except FitserveError:
                log.warning("database unavailable; the work continues", extra={"run": self.claim.lease.run_id})

    def _write(self, reports: tuple[Report, ...], checkpoint: StoredCheckpoint | None = None) -> None:
        """T3: renew the lease and write progress. Raises LeaseLost."""
        try:
            requested, _ = lease.renew(
                self.engine,
                self.claim.lease,
                lease_seconds=self.settings.lease_seconds,
                reports=reports,
                progress=bool(reports),
                checkpoint=checkpoint,
                blobs=self.blobs,
            )
        except LeaseLost:
            self._lost = True
            raise
        self._cancel = self._cancel or requested is not None

    @abstractmethod
    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        """Do the run's actual work. Returns its result, and the blobs that it refers to, by kind."""

    @property
    def _is_interrupted(self) -> bool:
        return self._lost or self._cancel or self.stopping.is_set()
