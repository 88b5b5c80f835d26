"""The worker's thread for runs that need no trainer: batch predictions, imports, their parts, exports, cleanups."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

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
SWEEP_SECONDS = 600.0  # between two searches for folders that killed workers left behind, and their minimum age
MakeAttempt = Callable[[Settings, Engine, BlobStore, lease.Claim, threading.Event], SideAttempt]


def remove_left_folders(engine: Engine, folder: Path, age: float) -> None:
    """Delete the folders of ended attempts, which killed workers have left on this machine.

    They may be as large as a dataset. A worker that still uses one has lost its lease, so nothing that it does counts.
    """
    for path in folder.glob("*-*"):
        run_id, _, attempt = path.name.rpartition("-")
        with suppress(FileNotFoundError):  # another worker on this machine may be deleting it too
            if not attempt.isdigit() or time.time() - path.stat().st_mtime < age:
                continue
            of_attempt = (Run.id == run_id, Run.state == RunState.running, Run.attempt == int(attempt))
            with db.reading(engine) as session:
                is_held = session.scalar(select(Run.id).where(*of_attempt)) is not None
            if not is_held:
                log.info("deleting what a killed worker has left", extra={"run": run_id})
                shutil.rmtree(path, ignore_errors=True)


class SideRunner(threading.Thread):
    """Thread that makes attempts at such runs, one after another. `attempts` maps a run's kind to its attempt class."""

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
        self._sweep_at = time.monotonic()
        self._worker = f"{platform.node()}-{os.getpid()}-predictions"

    def wake(self) -> None:
        """Check the queue now."""
        self._woken.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                while not self.stopping.is_set() and self._run_next():
                    pass
                if time.monotonic() >= self._sweep_at:
                    self._sweep_at = time.monotonic() + SWEEP_SECONDS
                    remove_left_folders(self.engine, self.settings.scratch / "runs", SWEEP_SECONDS)
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
