"""Cleanups: remove what a batch prediction wrote to its destination, if its holder was lost before doing so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from fitserve import db
from fitserve.blobs import StoredBlob
from fitserve.datasets.destinations import open_target
from fitserve.runs import cleanup
from fitserve.wire.destinations import Destination
from workers.expired_runs import reclaim_expired_runs
from workers.side_attempt import Interrupted, SideAttempt

_POLL = 0.1  # seconds between two checks of the parts that other workers still hold


class CleanupAttempt(SideAttempt):
    """One attempt at one cleanup. An unreachable destination spends an attempt, as for a batch prediction."""

    _remains: list[str] | None = None

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        run = self.claim.run
        assert run.parent_id is not None
        stated = Destination.model_validate(run.resolved["destination"])
        ((kind, where),) = run.resolved["destination"].items()
        self._remains = [f"what {run.parent_id} has written through {where['connection']} ({kind})"]
        while cleanup.has_writers(self.engine, run.parent_id):  # a part written after this would never be removed
            if self._is_interrupted:
                raise Interrupted
            reclaim_expired_runs(self.engine, self.settings.max_attempts)
            time.sleep(_POLL)
        target = open_target(self.settings, stated, run.owner, run.parent_id)
        self._remains = [target.leftovers]
        self._remains = target.discard()
        return {"remains": self._remains}, {}

    def _register(self, session: Session) -> dict[str, Any]:
        assert self.claim.run.parent_id is not None
        cleanup.record(session, self.claim.run.parent_id, self._remains or [])
        return {}

    def _undo(self) -> None:
        """Record on the batch prediction that the cleanup has given up."""
        with db.transaction(self.engine) as session:
            self._register(session)
