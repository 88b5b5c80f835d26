"""`python -m workers.reaper`: expired leases (T6, T7, T9), undelivered runs (T10), garbage.

Everything here is a compare-and-set, so that one reaper, none or two make no difference but in time.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine, text

from fitserve import blobs, db, logs, telemetry
from fitserve.blobs import BlobStore
from fitserve.crash import crash_point
from fitserve.errors import FitserveError
from fitserve.queue import Publisher
from fitserve.runs import blob_references, dispatch, queries, worker_rows
from fitserve.settings import Settings
from workers import lost_runs
from workers.live_gauges import LiveGauges

log = logging.getLogger(__name__)

MESSAGES = 100  # that wait in the broker at most: each wakes an idle worker, and there are not so many
SWEEP_EVERY = 3600.0  # seconds between two searches for garbage
COUNT_EVERY = 15.0  # seconds between two counts of runs


class Reaper:
    """Reaper, dispatcher and collector: one round of each when it is due."""

    def __init__(self, settings: Settings, engine: Engine, store: BlobStore, publisher: Publisher) -> None:
        self.settings = settings
        self.engine = engine
        self.blobs = store
        self.publisher = publisher
        self.round_at = time.monotonic()  # of the last whole round
        self._duties: list[tuple[float, Callable[[], None]]] = [
            (settings.reap_seconds, self.reap),
            (settings.reap_seconds, self.dispatch),
            (COUNT_EVERY, self.count),
            (min(COUNT_EVERY, settings.drift_write_seconds), LiveGauges(settings, engine, store).refresh),
            (SWEEP_EVERY, self.sweep),
        ]

    def run(self, stopping: threading.Event) -> None:
        """Rounds until `stopping` is set. What fails is tried again in the next round."""
        due = [time.monotonic()] * len(self._duties)
        while not stopping.is_set():
            for index, (every, duty) in enumerate(self._duties):
                if time.monotonic() >= due[index]:
                    due[index] = time.monotonic() + every
                    self._try(duty)
            self.round_at = time.monotonic()
            stopping.wait(max(0.01, min(due) - time.monotonic()))

    def _try(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except FitserveError as error:
            log.warning("a round broke off", extra={"duty": duty.__name__, "error": error.detail})
        except Exception:
            log.exception("a round broke off")

    def reap(self) -> None:
        """T6, T7, T9: runs whose worker was lost."""
        lost_runs.take_back(self.engine, self.settings.max_attempts)

    def dispatch(self) -> None:
        """T10: as many messages as idle workers may need, best runs first."""
        waiting = self.publisher.depth()
        if waiting is None or waiting >= MESSAGES:
            return
        ids = dispatch.undelivered(self.engine, self.settings.redispatch_seconds, MESSAGES - waiting)
        sent = []
        for run_id in ids:
            if not self.publisher.publish(run_id):
                break
            sent.append(run_id)
            crash_point("dispatcher.mid_round")
        if sent:
            dispatch.published(self.engine, sent)
            telemetry.DISPATCHED.inc(len(sent))

    def count(self) -> None:
        """Gauges of the queue."""
        with db.reading(self.engine) as session:
            for state, count in queries.counts(session).items():
                telemetry.RUNS.labels(state).set(count)
            telemetry.QUEUE_AGE.set(queries.oldest_queued_seconds(session))

    def sweep(self) -> None:
        """Blobs that nothing refers to, old idempotency keys, workers that have gone."""
        removed = blob_references.collect(self.engine, self.blobs, age_seconds=self.settings.garbage_age_seconds)
        telemetry.BLOBS_COLLECTED.inc(removed)
        blob_references.forget_old_keys(self.engine)
        worker_rows.bury(self.engine)


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    from workers import health_server

    settings = Settings()
    logs.configure("reaper", settings.log_level)
    telemetry.watch_disk(settings.home)
    engine = db.make_engine(settings.resolved_database_url)
    publisher = Publisher(settings)
    reaper = Reaper(settings, engine, blobs.open_store(settings.resolved_blob_url), publisher)
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())

    def database() -> bool:
        with db.reading(engine) as session:
            return session.scalar(text("SELECT 1")) == 1

    def rounds() -> bool:
        return time.monotonic() - reaper.round_at < 10 * settings.reap_seconds + 30

    health_server.serve(settings.host, settings.reaper_metrics_port, {"database": database, "rounds": rounds})
    reaper.run(stopping)
    publisher.close()
    engine.dispose()


if __name__ == "__main__":
    main()
