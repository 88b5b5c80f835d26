"""The thread that appends staged rows once they have waited for long enough."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine

from fitserve.blobs import BlobStore
from fitserve.datasets import staged_batches
from fitserve.errors import FitserveError
from fitserve.settings import Settings

log = logging.getLogger(__name__)

MAX_PAUSE = 15.0  # seconds between two looks


class StagedCommits(threading.Thread):
    """Thread that commits the staged rows that are due. Any number may run: each batch ends up in one version."""

    def __init__(self, settings: Settings, engine: Engine, blobs: BlobStore, stopping: threading.Event) -> None:
        super().__init__(name="staged", daemon=True)
        self.settings, self.engine, self.blobs, self.stopping = settings, engine, blobs, stopping
        self.pause = min(MAX_PAUSE, settings.append_commit_seconds / 2)

    def run(self) -> None:
        while not self.stopping.wait(self.pause):
            try:
                if made := self._commit_due():
                    log.info("staged rows were appended", extra={"versions": made})
            except FitserveError as error:
                log.warning("staged rows cannot be appended", extra={"error": error.detail})
            except Exception:
                log.exception("staged rows cannot be appended")

    def _commit_due(self) -> int:
        if not staged_batches.names_due(self.engine, self.settings.append_commit_seconds):
            return 0
        # Imported once rows are due, because it brings all that reads tables: see `AutomationDriver`.
        from fitserve.datasets.staging import Stage

        return Stage(self.settings, self.engine, self.blobs).commit_due()
