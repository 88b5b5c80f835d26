"""The thread of a worker that runs what needs no trainer: batch predictions, imports, their parts, exports."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Mapping

from sqlalchemy import Engine, select

from fitserve import db
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.runs import lease
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Run
from workers.attempt.telemetry import attempt_context
from workers.side_attempt import SideAttempt

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
MakeAttempt = Callable[[Settings, Engine, BlobStore, lease.Claim, threading.Event], SideAttempt]


class SideRunner(threading.Thread):
    """Runs them one after the other, beside the slots that train. `attempts` are by the kind of run."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        blobs: BlobStore,
        stopping: threading.Event,
        attempts: Mapping[str, MakeAttempt],
    ) -> None:
        super().__init__(name="predictions", daemon=True)
        self.settings, self.engine, self.blobs, self.stopping = settings, engine, blobs, stopping
        self._attempts = attempts
        self._woken = threading.Event()
        self._worker = f"{platform.node()}-{os.getpid()}-predictions"

    def wake(self) -> None:
        """Look at the queue now."""
        self._woken.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                while not self.stopping.is_set() and self._run_next():
                    pass
            except FitserveError as error:
                log.warning("cannot claim a run", extra={"error": error.detail})
            except Exception:
                log.exception("attempt failed")  # its lease expires, and a reaper requeues it
            self._woken.wait(POLL_SECONDS)
            self._woken.clear()

    def _run_next(self) -> bool:
        """Run the next one in the queue. Return whether there was one."""
        with db.reading(self.engine) as session:  # unlike a claim, this takes no write lock
            waiting = select(Run.id).where(Run.kind.in_(self._attempts), Run.state == RunState.queued).limit(1)
            if session.scalar(waiting) is None:
                return False
        limit = self.settings.limits.running_runs
        seconds = self.settings.lease_seconds
        claim = lease.claim(
            self.engine, self._worker, lease_seconds=seconds, running_limit=limit, kinds=tuple(self._attempts)
        )
        if claim is None:
            return False
        with attempt_context(claim) as span:
            make = self._attempts[claim.run.kind]
            span.end_run(make(self.settings, self.engine, self.blobs, claim, self.stopping).run())
        return True
