"""What a reaper does: expired leases (T6, T7, T9), undelivered runs (T10), gauges, garbage collection."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine

from fitserve import blobs, db, logs, telemetry, webhooks
from fitserve.automations import leadership
from fitserve.blobs import BlobStore
from fitserve.crash_points import crash_point
from fitserve.datasets import staged_batches
from fitserve.errors import FitserveError
from fitserve.operations.alarms import AlarmWatch
from fitserve.operations.sampler import Sampler
from fitserve.queue import Publisher
from fitserve.runs import blob_references, create, queries, worker_registry
from fitserve.settings import Settings
from workers import health_server
from workers.automation_driver import AutomationDriver
from workers.deliveries import Deliverer
from workers.expired_runs import reclaim_expired_runs
from workers.reaper.live_gauges import LiveGauges
from workers.rollout_driver import RolloutDriver
from workers.staged_commits import StagedCommits

log = logging.getLogger(__name__)

# Messages in the broker at once: each wakes one idle worker, and there are never more idle workers than this.
MAX_MESSAGES = 100
SWEEP_SECONDS = 3600.0  # between two garbage collections
COUNT_SECONDS = 15.0  # between two counts of runs


class Reaper:
    """Performs each duty when it is due."""

    def __init__(self, settings: Settings, engine: Engine, store: BlobStore, publisher: Publisher) -> None:
        self.settings = settings
        self.engine = engine
        self.blobs = store
        self.publisher = publisher
        self.round_at = time.monotonic()  # end of the last round
        gauges = LiveGauges(settings, engine, store)
        self._duties: list[tuple[float, Callable[[], None]]] = [
            (settings.reap_seconds, self.reap),
            (settings.reap_seconds, self.dispatch),
            (COUNT_SECONDS, self.count),
            (min(COUNT_SECONDS, settings.drift_write_seconds), gauges.refresh),
            (SWEEP_SECONDS, self.sweep),
        ]

    def run(self, stopping: threading.Event) -> None:
        """Perform due duties until `stopping` is set. A duty that fails is retried when it is next due."""
        due = [time.monotonic()] * len(self._duties)
        while not stopping.is_set():
            for index, (every, duty) in enumerate(self._duties):
                if time.monotonic() >= due[index]:
                    due[index] = time.monotonic() + every
                    try:
                        duty()
                    except FitserveError as error:
                        log.warning("duty failed", extra={"duty": duty.__name__, "error": error.detail})
                    except Exception:
                        log.exception("duty failed")
            self.round_at = time.monotonic()
            stopping.wait(max(0.01, min(due) - time.monotonic()))

    def reap(self) -> None:
        reclaim_expired_runs(self.engine, self.settings.max_attempts)

    def dispatch(self) -> None:
        """T10: publish undelivered runs in the order of the queue, at most as many as idle workers may need."""
        depth = self.publisher.depth()
        if depth is None or depth >= MAX_MESSAGES:
            return
        ids = create.undelivered_runs(self.engine, self.settings.redispatch_seconds, MAX_MESSAGES - depth)
        sent = []
        for run_id in ids:
            if not self.publisher.publish(run_id):
                break
            sent.append(run_id)
            crash_point("dispatcher.mid_round")
        if sent:
            create.mark_published(self.engine, sent)
            telemetry.DISPATCHED.inc(len(sent))

    def count(self) -> None:
        """Set the gauges of the queue and of deliveries."""
        with db.reading(self.engine) as session:
            for state, count in queries.count_by_state(session).items():
                telemetry.RUNS.labels(state).set(count)
            telemetry.QUEUE_AGE.set(queries.oldest_queued_seconds(session))
            pending, oldest, disabled = webhooks.standing(session)
            paused = leadership.count_paused(session)
        telemetry.AUTOMATIONS_PAUSED.set(paused)
        telemetry.DELIVERIES_PENDING.set(pending)
        telemetry.DELIVERY_AGE.set(oldest)
        telemetry.WEBHOOKS_DISABLED.set(disabled)

    def sweep(self) -> None:
        """Remove unreferenced blobs, old idempotency keys and events, and rows of workers that are gone."""
        removed = blob_references.delete_unreferenced(
            self.engine, self.blobs, age_seconds=self.settings.garbage_age_seconds
        )
        telemetry.BLOBS_COLLECTED.inc(removed)
        create.delete_old_idempotency_keys(self.engine)
        staged_batches.delete_old(self.engine)
        webhooks.delete_old(self.engine, self.settings.event_seconds)
        if sealed := webhooks.reseal(self.engine, self.settings):
            log.info("secrets of webhooks are encrypted with the newest key", extra={"secrets": sealed})
        worker_registry.prune(self.engine)


def run() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    logs.configure("reaper", settings.log_level)
    telemetry.watch_disk(settings.home)
    engine = db.make_engine(settings.resolved_database_url)
    publisher = Publisher(settings)
    reaper = Reaper(settings, engine, blobs.open_store(settings.resolved_blob_url), publisher)
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())

    def rounds() -> bool:
        return time.monotonic() - reaper.round_at < 10 * settings.reap_seconds + 30

    checks = {"database": health_server.database_check(engine), "rounds": rounds}
    health_server.serve(settings.host, settings.reaper_metrics_port, checks)
    driver = RolloutDriver(engine)
    driver.start()
    Deliverer(settings, engine, stopping).start()
    AutomationDriver(settings, engine, reaper.blobs, publisher, stopping).start()
    StagedCommits(settings, engine, reaper.blobs, stopping).start()
    watchers = (Sampler(engine, "reaper", settings.sample_seconds, settings.home), AlarmWatch(settings, engine))
    for thread in watchers:
        thread.start()
    reaper.run(stopping)
    driver.stop()
    for thread in watchers:
        thread.stop()
    publisher.close()
    engine.dispose()
