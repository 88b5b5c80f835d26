"""A worker: the Celery worker around a supervisor. Messages wake it, SIGTERM stops it gracefully."""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import celery.apps.worker
from celery import bootsteps
from celery.exceptions import SecurityWarning
from celery.signals import worker_ready, worker_shutting_down

from fitserve import blobs, db, logs, telemetry, tracing
from fitserve.operations.sampler import Sampler
from fitserve.queue import QUEUE, WAKE, Publisher, make_app
from fitserve.settings import Settings
from fitserve.states import RunKind
from workers import health_server
from workers.automation_driver import AutomationDriver
from workers.batch.cleanup import CleanupAttempt
from workers.batch.import_run import ImportAttempt, part_attempt
from workers.batch.prediction import BatchPredictionAttempt
from workers.deliveries import Deliverer
from workers.exports import ExportAttempt
from workers.messages import HintApp
from workers.rollout_driver import RolloutDriver
from workers.side_runner import MakeAttempt, SideRunner
from workers.supervisor import Supervisor

log = logging.getLogger(__name__)

LOOP_SECONDS = 0.05
SIDE_ATTEMPTS: dict[str, MakeAttempt] = {  # attempts of the run kinds that need no trainer
    RunKind.prediction: BatchPredictionAttempt,
    RunKind.import_: ImportAttempt,
    RunKind.part: part_attempt,
    RunKind.cleanup: CleanupAttempt,
    RunKind.export: ExportAttempt,
}
HURRY = signal.SIGUSR2  # a second Ctrl-C of `fitserve up`


class ShortLoop(bootsteps.StartStopStep):
    """Celery bootstep that keeps the event loop turning every LOOP_SECONDS.

    With `worker_disable_prefetch`, Celery asks for the next message in the turn after a slot became free, and a turn
    can otherwise last a second.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        if c.hub is not None:
            c.hub.call_repeatedly(LOOP_SECONDS, lambda: None)


def _silence_celery() -> None:
    """Suppress what Celery prints outside the log.

    Its warning about running as root concerns pickled messages; ours are JSON, and only their ids are read.
    """
    warnings.filterwarnings("ignore", category=SecurityWarning)
    celery.apps.worker.safe_say = lambda *_, **__: None


def run() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    _configure_process(settings)
    # A call that hangs ends well before the lease does, so that the trainer can be stopped in time.
    patience = max(5.0, settings.lease_seconds / 2)
    engine = db.make_engine(settings.resolved_database_url, statement_seconds=patience, answer_seconds=patience)
    publisher = Publisher(settings)
    supervisor = Supervisor(settings, engine, blobs.open_store(settings.resolved_blob_url), publisher.publish)
    connected = threading.Event()
    signal.signal(HURRY, lambda *_: supervisor.hurry())
    checks = {
        "database": health_server.database_check(engine),
        "trainer": supervisor.is_ready,
        "broker": connected.is_set,
    }
    health_server.serve(settings.host, settings.worker_metrics_port, checks)
    supervisor.start()
    side_runner = SideRunner(settings, engine, supervisor.blobs, supervisor.stopping, SIDE_ATTEMPTS)
    side_runner.start()
    Deliverer(settings, engine, supervisor.stopping).start()
    AutomationDriver(settings, engine, supervisor.blobs, publisher, supervisor.stopping).start()
    rollouts = RolloutDriver(engine)
    rollouts.start()
    sampler = Sampler(engine, "worker", settings.sample_seconds, settings.home)
    sampler.start()
    finished = threading.Event()

    def stop() -> None:
        supervisor.stop()
        rollouts.stop()
        sampler.stop()
        side_runner.join(settings.graceful_seconds)
        tracing.stop()
        finished.set()
        # Celery may be waiting for a broker that is down; we have nothing left to do.
        threading.Event().wait(3)
        os._exit(0)

    def on_shutdown(**_: Any) -> None:
        """Stop on SIGTERM or SIGINT, in a thread because a signal handler must not wait."""
        threading.Thread(target=stop, name="stop", daemon=True).start()

    worker_shutting_down.connect(on_shutdown, weak=False)
    worker_ready.connect(lambda **_: connected.set(), weak=False)
    try:
        _make_celery_worker(settings, (side_runner.wake, supervisor.wake)).start()
    finally:
        if supervisor.stopping.is_set():
            finished.wait(settings.graceful_seconds + 5)
        else:
            supervisor.stop()
        publisher.close()
        engine.dispose()


def _configure_process(settings: Settings) -> None:
    """Set up logs, traces and this machine's folders."""
    logs.configure("worker", settings.log_level)
    _silence_celery()
    tracing.configure(settings.otlp_endpoint, "worker")
    telemetry.watch_disk(settings.home)
    settings.scratch.mkdir(parents=True, exist_ok=True)


def _make_celery_worker(settings: Settings, wakers: Sequence[Callable[[], object]]) -> Any:
    """Return a Celery worker that calls all `wakers` for each message."""
    app = make_app(settings, HintApp)
    app.conf.worker_consumer = "workers.messages:HintConsumer"
    app.steps["consumer"].add(ShortLoop)

    @app.task(name=WAKE)
    def wake(run_id: str) -> None:
        for waker in wakers:
            waker()

    return app.Worker(
        pool="threads",
        concurrency=settings.trainers,
        queues=[QUEUE],
        hostname=f"{QUEUE}-{os.getpid()}@{platform.node() or 'localhost'}",
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
