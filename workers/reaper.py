"""`python -m workers.reaper`: expired leases (T6, T7, T9), undelivered runs (T10), gauges, garbage collection.

Every write is a compare-and-set, so none, one or several reapers differ only in how soon things happen.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine

from fitserve import artifacts, blobs, db, logs, monitoring, telemetry, webhooks
from fitserve.automations import store as automations
from fitserve.blobs import BlobStore
from fitserve.crash_points import crash_point
from fitserve.datasets.staging import Stage
from fitserve.errors import FitserveError
from fitserve.operations import history
from fitserve.operations.alarms import AlarmWatch
from fitserve.operations.sampler import Sampler
from fitserve.queue import Publisher
from fitserve.rollouts import lifecycle
from fitserve.runs import blob_references, create, finish, queries, worker_registry
from fitserve.settings import Settings
from fitserve.states import TERMINAL, FailureCause, RunState
from fitserve.tables import Rollout
from workers import health_server
from workers.automation_driver import AutomationDriver
from workers.deliveries import Deliverer
from workers.rollout_driver import RolloutDriver
from workers.staged_commits import StagedCommits

log = logging.getLogger(__name__)

# Messages in the broker at once: each wakes one idle worker, and there are never more idle workers than this.
MAX_MESSAGES = 100
SWEEP_SECONDS = 3600.0  # between two garbage collections
COUNT_SECONDS = 15.0  # between two counts of runs
MAX_COLUMNS = 20  # drift gauges of a version, the most drifted columns: a table may have thousands
MAX_VERSIONS = 200  # with drift gauges
_LIVE_GAUGES = (
    *(telemetry.DRIFT_PSI, telemetry.DRIFT_WORST, telemetry.DRIFT_MISSING, telemetry.DRIFT_OUTPUT),
    *(telemetry.DRIFT_ROWS, telemetry.LIVE_ACCURACY, telemetry.LIVE_RMSE, telemetry.LIVE_ROWS),
    *(telemetry.LIVE_COVERED_ROWS, telemetry.LIVE_COVERAGE, telemetry.LIVE_LEVEL, telemetry.LIVE_CALIBRATION_ROWS),
    *(telemetry.ROLLOUT_SHARE, telemetry.ROLLOUT_STEP_SECONDS, telemetry.ROLLOUT_GUARD),
    *(telemetry.LIVE_CALIBRATION_ERROR, telemetry.LIVE_BRIER, telemetry.LIVE_LOG_LOSS, telemetry.LIVE_BAD_SLICES),
)


def reclaim_expired_runs(engine: Engine, max_attempts: int) -> None:
    """T6, T7, T9: requeue or end every run whose lease has expired.

    Safe in any number of processes. Idle workers call it too: a lost run must not wait for a reaper that is down.
    """
    for run_id, state in finish.expire_leases(engine, max_attempts):
        telemetry.REAPED.inc()
        if state in TERMINAL:
            telemetry.RUNS_FINISHED.labels(str(state)).inc()
        if state == RunState.failed:
            telemetry.RUN_FAILURES.labels(FailureCause.worker_lost).inc()
        log.warning("worker lost", extra={"run": run_id, "state": str(state)})
        crash_point("reaper.mid_round")


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
            paused = automations.count_paused(session)
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
        Stage(self.settings, self.engine, self.blobs).delete_old()
        webhooks.delete_old(self.engine, self.settings.event_seconds)
        if sealed := webhooks.reseal(self.engine, self.settings):
            log.info("secrets of webhooks are encrypted with the newest key", extra={"secrets": sealed})
        worker_registry.prune(self.engine)


class LiveGauges:
    """Gauges of drift and live quality, from the summed windows of all prediction processes."""

    def __init__(self, settings: Settings, engine: Engine, blobs: BlobStore) -> None:
        self.settings, self.engine, self.blobs = settings, engine, blobs
        self._read_distributions = lru_cache(MAX_VERSIONS)(self._uncached_distributions)  # by artifact

    def refresh(self) -> None:
        """Expire old windows, then set every gauge again: versions without requests lose theirs."""
        window = self.settings.drift_window_seconds
        monitoring.delete_expired(self.engine, window, self.settings.feedback_seconds)
        with db.reading(self.engine) as session:
            versions = monitoring.active_artifacts(session, window)[:MAX_VERSIONS]
            totals = [monitoring.window_totals(session, key[0], key[2], window) for key in versions]
            figures = monitoring.live_scores(session, self.settings.feedback_seconds)
            slices = monitoring.live_slices(session, self.settings.feedback_seconds)
            active = lifecycle.all_active(session)
            now = db.now(session)
        distributions = [self._distributions_of(artifact) for _, _, artifact in versions]
        for gauge in _LIVE_GAUGES:
            gauge.clear()
        indices: dict[tuple[str, int], float] = {}
        for (model, version, _), version_totals, distribution in zip(versions, totals, distributions, strict=True):
            psi = self._set_drift(model, str(version), version_totals, distribution)
            if psi is not None:
                indices[model, version] = max(psi, indices.get((model, version), 0.0))
        history.write_drift(self.engine, indices)
        for figure in figures[:MAX_VERSIONS]:
            labels = (figure["model"], str(figure["version"]), figure["output"])
            telemetry.LIVE_ROWS.labels(*labels).set(figure["rows"])
            if figure["accuracy"] is not None:
                telemetry.LIVE_ACCURACY.labels(*labels).set(figure["accuracy"])
            else:
                telemetry.LIVE_RMSE.labels(*labels).set(figure["rmse"])
            _set_coverage_and_calibration(figure, labels)
            telemetry.LIVE_BAD_SLICES.labels(*labels).set(0)
        for row, step_figures in active[:MAX_VERSIONS]:
            _set_rollout(row, step_figures, (now - row.step_at).total_seconds())
        shown = {(figure["model"], figure["version"], figure["output"]) for figure in figures[:MAX_VERSIONS]}
        for one in slices:
            if (key := (one["model"], one["version"], one["output"])) in shown:
                telemetry.LIVE_BAD_SLICES.labels(key[0], str(key[1]), key[2]).inc(int(one["bad"]))

    def _set_drift(
        self, model: str, version: str, totals: monitoring.WindowTotals, manifest: dict[str, Any]
    ) -> float | None:
        """Set a version's gauges and return its largest drift index; None if there are too few rows."""
        telemetry.DRIFT_ROWS.labels(model, version).set(totals.rows)
        columns = monitoring.column_drift(manifest.get("training_distribution") or {}, totals)
        columns = [column for column in columns if column["psi"] is not None]
        if columns:
            telemetry.DRIFT_WORST.labels(model, version).set(columns[0]["psi"])
            if totals.rows >= self.settings.drift_event_rows:
                threshold = self.settings.drift_event_psi
                monitoring.note_drift(self.engine, model, int(version), columns[0], totals.rows, threshold)
        for column in columns[:MAX_COLUMNS]:
            telemetry.DRIFT_PSI.labels(model, version, column["column"]).set(column["psi"])
            telemetry.DRIFT_MISSING.labels(model, version, column["column"]).set(column["missing"])
        for output in monitoring.output_drift(manifest.get("prediction_distribution") or {}, totals):
            if output["psi"] is not None:
                telemetry.DRIFT_OUTPUT.labels(model, version, output["output"], output["part"]).set(output["psi"])
        return columns[0]["psi"] if columns else None

    def _uncached_distributions(self, artifact: str) -> dict[str, Any]:
        manifest = artifacts.read(self.blobs, artifact).manifest
        return {part: manifest.get(part) for part in ("training_distribution", "prediction_distribution")}

    def _distributions_of(self, artifact: str) -> dict[str, Any]:
        try:
            return self._read_distributions(artifact)
        except FitserveError:
            return {}


def _set_rollout(row: Rollout, figures: list[dict[str, Any]], seconds: float) -> None:
    telemetry.ROLLOUT_SHARE.labels(row.model, str(row.to)).set(lifecycle.StoredPlan.read(row.plan).shares[row.step])
    telemetry.ROLLOUT_STEP_SECONDS.labels(row.model).set(seconds)
    for figure in figures:
        if figure["low"] is not None and figure["limit"] > 0:
            telemetry.ROLLOUT_GUARD.labels(row.model, figure["guard"]).set(figure["low"] / figure["limit"])


def _set_coverage_and_calibration(figure: dict[str, Any], labels: tuple[str, str, str]) -> None:
    if figure["covered_rows"]:
        telemetry.LIVE_COVERED_ROWS.labels(*labels).set(figure["covered_rows"])
        telemetry.LIVE_COVERAGE.labels(*labels).set(figure["coverage"])
        telemetry.LIVE_LEVEL.labels(*labels).set(figure["level"])
    if figure["calibration_rows"]:
        telemetry.LIVE_CALIBRATION_ROWS.labels(*labels).set(figure["calibration_rows"])
        telemetry.LIVE_CALIBRATION_ERROR.labels(*labels).set(figure["calibration_error"])
        telemetry.LIVE_BRIER.labels(*labels).set(figure["brier"])
        telemetry.LIVE_LOG_LOSS.labels(*labels).set(figure["log_loss"])


def main() -> None:
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


if __name__ == "__main__":
    main()
