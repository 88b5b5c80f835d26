"""Mutants: processes without one guarantee. The fork server applies the one that FITSERVE_TEST_MUTANT names.

Each must make the harness fail; otherwise the harness proves nothing. None of this is in the product.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from sqlalchemy import Engine, true

from fitserve import blobs, db
from fitserve.blobs import FolderStore, StoredBlob
from fitserve.runs import lease
from fitserve.runs.history import CLAIMED, add_event
from fitserve.states import TERMINAL
from fitserve.tables import Run
from workers.attempt.attempt import TrainerAttempt


def without_fence() -> None:
    """A worker's writes match the run's id alone, without state, attempt and token.

    Nor does it stop by its own clock, which would hide the missing fence from a worker that was only paused.
    """
    lease.Lease.holds = lambda self: Run.id == self.run_id  # type: ignore[method-assign]
    TrainerAttempt._lease_is_over = lambda self, now: False  # type: ignore[method-assign]


def without_conditional_update() -> None:
    """A claim reads the queue in one transaction and writes in another, matching the run's id alone."""

    def claim(engine: Engine, worker: str, *, lease_seconds: float, **_: object) -> lease.Claim | None:
        with db.reading(engine) as session:
            best = lease._best_queued(session, [], [], ("training",), true())
        if best is None:
            return None
        time.sleep(0.2)  # widens the race
        token = secrets.token_hex(16)
        with db.transaction(engine) as session:
            at = db.now(session)
            run = session.get(Run, best.id)
            if run is None or run.state in TERMINAL:
                return None
            run.state, run.attempt, run.lease_token, run.worker = "running", run.attempt + 1, token, worker
            run.lease_expires_at = at + timedelta(seconds=lease_seconds)
            run.started_at = at
            session.flush()
            add_event(session, run.id, run.attempt, CLAIMED, at, "running", "Started")
            session.expunge(run)
            return lease.Claim(lease.Lease(run.id, run.attempt, token), run, 0.0)

    lease.claim = claim  # type: ignore[assignment]


def without_fsync_and_rename() -> None:
    """A blob is written under its final name; one that exists already is trusted."""

    def put(self: FolderStore, chunks: Iterable[bytes]) -> StoredBlob:
        data = b"".join(chunks)
        sha256 = hashlib.sha256(data).hexdigest()
        target = self._path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with target.open("wb", buffering=0) as file:
                for start in range(0, len(data), 200):
                    file.write(data[start : start + 200])
                    time.sleep(0.01)  # a slow disk
        return StoredBlob(sha256, len(data))

    blobs.FolderStore._put = put  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "without_fence": without_fence,
    "without_conditional_update": without_conditional_update,
    "without_fsync_and_rename": without_fsync_and_rename,
}
