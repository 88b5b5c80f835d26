"""How an attempt ends its run: by one conditional update, whose outcome is read again where it is unknown."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from fitserve import db
from fitserve.crash import crash_point
from fitserve.errors import StorageFull, Unavailable
from fitserve.runs import blob_references, lease
from fitserve.states import TERMINAL, RunState
from fitserve.tables import Run

log = logging.getLogger(__name__)

RETRY_PAUSE = 0.5  # seconds between two tries where the database is away


class Ended(Exception):
    """The trainer must go: its attempt ends with this cause. `final` failures are not tried again."""

    def __init__(self, cause: str, message: str, data: dict[str, Any] | None = None, *, final: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.data = data or {}
        self.final = final


class StoppedByUs(Exception):
    """The trainer had to go because of a cancel, or because this worker stops."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last word on an attempt, which `stopping` makes impatient: it then waits `patience` seconds at most."""

    engine: Engine
    lease: lease.Lease
    stopping: threading.Event
    patience: float

    def decide(self, end: Callable[[], RunState]) -> RunState | None:
        """Ends the run. Where the commit's outcome is unknown, reads it again; never acts blindly.

        Gives up (None) where this worker has to stop before the database is back: the lease then runs out.
        """
        deadline: float | None = None
        while True:
            try:
                state = end()
                crash_point("supervisor.after_commit")
                return state
            except lease.LeaseLost:
                state_now = self._outcome()
                if state_now is None:
                    log.warning("the run is no longer ours", extra={"run": self.lease.run_id})
                return state_now
            except blob_references.BlobVanished:
                raise
            except (ConnectionError, Unavailable, StorageFull):
                log.warning("the database is away at the end of a run", extra={"run": self.lease.run_id})
            if self.stopping.is_set():
                deadline = deadline or time.monotonic() + self.patience
                if time.monotonic() > deadline:
                    return None
            time.sleep(RETRY_PAUSE)

    def _outcome(self) -> RunState | None:
        """The state in which this attempt ended the run, if it was this attempt."""
        try:
            with db.reading(self.engine) as session:
                run = session.get(Run, self.lease.run_id)
        except Unavailable:
            return None
        ours = run is not None and run.attempt == self.lease.attempt and run.state in TERMINAL
        return RunState(run.state) if ours and run is not None else None
