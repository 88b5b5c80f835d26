"""The Celery worker around a supervisor: messages wake it, SIGTERM stops it gracefully."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready, worker_shutting_down
from sqlalchemy import text

from fitserve import blobs, db, logs, telemetry, tracing
from fitserve.queue import QUEUE, WAKE, Publisher, make_app
from fitserve.settings import Settings
from workers import health_server
from workers.predict_batch import PredictionDesk
from workers.supervisor import Supervisor

log = logging.getLogger(__name__)

TURN = 0.05  # seconds


class LookOften(bootsteps.StartStopStep):
    """Lets Celery's loop turn often.

    With `worker_disable_prefetch` it asks for the next message in the turn after a slot became free, and a turn
    may last a second.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        if c.hub is not None:
            c.hub.call_repeatedly(TURN, lambda: None)


def main() -> None:
    """Runs until it is told to stop."""
    settings = Settings()
    logs.configure("worker", settings.log_level)
    tracing.configure(settings.otlp_endpoint, "worker")
    telemetry.watch_disk(settings.home)
    settings.scratch.mkdir(parents=True, exist_ok=True)
    engine = db.make_engine(settings.resolved_database_url)
    publisher = Publisher(settings)
    supervisor = Supervisor(settings, engine, blobs.open_store(settings.resolved_blob_url), publisher.publish)
    listening = threading.Event()

    def database() -> bool:
        with db.reading(engine) as session:
            return session.scalar(text("SELECT 1")) == 1

    checks = {"database": database, "trainer": supervisor.is_ready, "broker": listening.is_set}
    health_server.serve(settings.host, settings.worker_metrics_port, checks)
    supervisor.start()
    desk = PredictionDesk(settings, engine, supervisor.blobs, supervisor.stopping)
    desk.start()
    app = make_app(settings)
    app.steps["consumer"].add(LookOften)

    @app.task(name=WAKE)
    def wake(run_id: str) -> None:
        desk.wake()
        supervisor.wake()

    finished = threading.Event()

    def stop_gracefully(**_: Any) -> None:
        """On SIGTERM and SIGINT. Runs in a thread: a signal handler must not wait."""
        threading.Thread(target=_stop, name="stop", daemon=True).start()

    def _stop() -> None:
        supervisor.stop()
        desk.join(settings.graceful_seconds)
        tracing.stop()
        finished.set()
        # Celery may be waiting for a broker that is away; nothing of ours is left to do.
        threading.Event().wait(3)
        os._exit(0)

    worker_shutting_down.connect(stop_gracefully, weak=False)
    worker_ready.connect(lambda **_: listening.set(), weak=False)
    try:
        app.Worker(
            pool="threads",
            concurrency=settings.trainers,
            queues=[QUEUE],
            hostname=f"{QUEUE}-{os.getpid()}@%h",
            loglevel=settings.log_level,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        ).start()
    finally:
        if supervisor.stopping.is_set():
            finished.wait(settings.graceful_seconds + 5)
        else:
            supervisor.stop()
        publisher.close()
        engine.dispose()
