"""`python -m tests.predict.batch_worker`: a worker's thread for batch predictions, in a process that can be killed."""

from __future__ import annotations

import os
import platform
import threading

from fitserve import blobs, db
from fitserve.runs import finish, worker_registry
from fitserve.settings import Settings
from fitserve.states import RunKind
from workers.batch.prediction import BatchPredictionAttempt, PartAttempt
from workers.side_runner import SideRunner


def main() -> None:
    """Run until killed; requeue what the dead held."""
    settings = Settings()
    engine = db.make_engine(settings.resolved_database_url)
    worker_registry.register(engine, f"batch-{os.getpid()}", platform.node(), os.getpid())
    attempts = {RunKind.prediction: BatchPredictionAttempt, RunKind.part: PartAttempt}
    store = blobs.open_store(settings.resolved_blob_url)
    SideRunner(settings, engine, store, threading.Event(), attempts).start()
    while True:
        finish.expire_leases(engine, settings.max_attempts)
        threading.Event().wait(0.5)


if __name__ == "__main__":
    main()
