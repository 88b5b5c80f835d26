"""The thread that runs automations. Every worker and reaper has one; only the process that holds the lease acts."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time

from sqlalchemy import Engine

from fitserve import telemetry
from fitserve.automations.scheduler import Scheduler
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.queue import Publisher
from fitserve.settings import Settings

log = logging.getLogger(__name__)


class AutomationDriver(threading.Thread):
    """Looks at all automations every `reap_seconds`, as long as this process leads."""

    def __init__(
        self, settings: Settings, engine: Engine, blobs: BlobStore, publisher: Publisher, stopping: threading.Event
    ) -> None:
        super().__init__(name="automations", daemon=True)
        holder = f"{platform.node()[:80]}-{os.getpid()}-{new_id('s')[-6:]}"
        self.scheduler = Scheduler(settings, engine, blobs, publisher.publish, holder)
        self.pause, self.stopping = settings.reap_seconds, stopping

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                if self.scheduler.round():
                    telemetry.AUTOMATION_ROUND.set(time.time())
            except FitserveError as error:
                log.warning("automations wait", extra={"error": error.detail})
            except Exception:
                log.exception("automations wait")
            self.stopping.wait(self.pause)
