"""The thread that runs automations. Every worker and reaper has one; only the process that holds the lease acts."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from fitserve import telemetry
from fitserve.automations import leadership
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.queue import Publisher
from fitserve.settings import Settings

if TYPE_CHECKING:
    from fitserve.automations.scheduler import Scheduler

log = logging.getLogger(__name__)


class AutomationDriver(threading.Thread):
    """Looks at all automations every `reap_seconds`, as long as this process leads."""

    def __init__(
        self, settings: Settings, engine: Engine, blobs: BlobStore, publisher: Publisher, stopping: threading.Event
    ) -> None:
        super().__init__(name="automations", daemon=True)
        self.settings, self.engine, self.blobs, self.publisher = settings, engine, blobs, publisher
        self.holder = f"{platform.node()[:80]}-{os.getpid()}-{new_id('s')[-6:]}"
        self.stopping = stopping

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                if self._round():
                    telemetry.AUTOMATION_ROUND.set(time.time())
            except FitserveError as error:
                log.warning("automations wait", extra={"error": error.detail})
            except Exception:
                log.exception("automations wait")
            self.stopping.wait(self.settings.reap_seconds)

    def _round(self) -> bool:
        """Do what is due. Return whether this process leads."""
        if not leadership.has_work(self.engine):
            return leadership.lead(self.engine, self.holder)
        return self._scheduler.round()

    @cached_property
    def _scheduler(self) -> Scheduler:
        # Imported once there is an automation, because it brings the whole spec and all that reads tables: without
        # them, a reaper has a third less memory, and starts in two thirds of the time.
        from fitserve.automations.scheduler import Scheduler

        return Scheduler(self.settings, self.engine, self.blobs, self.publisher.publish, self.holder)
