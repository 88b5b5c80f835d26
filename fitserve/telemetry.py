"""Prometheus metrics: every name, help text, label and bucket, in one place.

Label values are bounded: route templates (else `unmatched`), model names and versions from the registry, states,
causes. Never a run's id or a name that a client chose.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from fitserve import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the series of counters
REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FAST = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
SIZES = tuple(2**power for power in range(11))  # rows
LONG = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)

BUILD = Info("fitserve_build", "Release and interpreter of this process.", registry=REGISTRY)
BUILD.info({"version": __version__, "python": platform.python_version()})

# HTTP
HTTP_REQUESTS = Counter(
    "fitserve_http_requests_total",
    "Requests answered, by route template, method and status code.",
    ["route", "method", "status"],
    registry=REGISTRY,
)
HTTP_SECONDS = Histogram(
    "fitserve_http_request_duration_seconds",
    "Time from a request's head to the end of its response, by route template and status class (2xx ...).",
    ["route", "method", "status_class"],
    buckets=REQUEST,
    registry=REGISTRY,
)
HTTP_RECEIVED = Counter("fitserve_http_request_bytes_total", "Bytes of requests' bodies.", ["route"], registry=REGISTRY)
HTTP_SENT = Counter("fitserve_http_response_bytes_total", "Bytes of responses' bodies.", ["route"], registry=REGISTRY)
HTTP_IN_FLIGHT = Gauge("fitserve_http_requests_in_flight", "Requests being answered.", registry=REGISTRY)

# Datasets
UPLOADS = Counter("fitserve_uploads_total", "Uploads ended, by outcome.", ["outcome"], registry=REGISTRY)
UPLOAD_BYTES = Counter("fitserve_upload_bytes_total", "Bytes of uploads received.", registry=REGISTRY)
ROWS_REFUSED = Counter("fitserve_upload_rows_refused_total", "Rows that lenient uploads refused.", registry=REGISTRY)
IMPORTS = Counter(
    "fitserve_imports_total",
    "Sources that were fetched, by kind and outcome: fetched, unchanged, refused, failed.",
    ["source", "outcome"],
    registry=REGISTRY,
)
IMPORT_BYTES = Counter(
    "fitserve_import_bytes_total", "Bytes fetched from sources, as stored on local disk.", ["source"], registry=REGISTRY
)

BATCH_PARTS = Counter(
    "fitserve_batch_parts_total",
    "Parts of batch predictions that were written, by destination: dataset, sql, s3, gs, az.",
    ["destination"],
    registry=REGISTRY,
)
BATCH_ROWS = Counter(
    "fitserve_batch_rows_total", "Rows of those parts, by destination.", ["destination"], registry=REGISTRY
)

# Runs
RUNS_CREATED = Counter("fitserve_runs_created_total", "Runs accepted.", registry=REGISTRY)
RUNS_FINISHED = Counter(
    "fitserve_runs_finished_total", "Runs that reached a terminal state here.", ["state"], registry=REGISTRY
)
RUN_FAILURES = Counter("fitserve_run_failures_total", "Runs that failed, by cause.", ["cause"], registry=REGISTRY)
RUNS = Gauge("fitserve_runs", "Runs in the database by state.", ["state"], registry=REGISTRY)
QUEUE_AGE = Gauge("fitserve_queue_oldest_seconds", "Age of the oldest queued run.", registry=REGISTRY)
RUN_WAIT = Histogram(
    "fitserve_run_wait_seconds", "Time of a run from creation to claim.", buckets=LONG, registry=REGISTRY
)
RUN_SECONDS = Histogram(
    "fitserve_run_duration_seconds", "Time of an attempt from claim to end.", buckets=LONG, registry=REGISTRY
)
ATTEMPTS = Counter("fitserve_run_attempts_total", "Runs claimed.", registry=REGISTRY)
REAPED = Counter("fitserve_runs_reaped_total", "Runs reclaimed from lost workers.", registry=REGISTRY)
DISPATCHED = Counter("fitserve_runs_dispatched_total", "Runs published again.", registry=REGISTRY)
MESSAGES_DROPPED = Counter(
    "fitserve_queue_messages_dropped_total", "Messages in the queue that were no wake-up.", registry=REGISTRY
)
EPOCHS = Counter("fitserve_epochs_total", "Epochs trained.", registry=REGISTRY)
ROWS_TRAINED = Counter(
    "fitserve_rows_trained_total", "Training rows of the epochs trained: rows times epochs.", registry=REGISTRY
)
LAST_LOSS = Gauge(
    "fitserve_run_last_loss",
    "Loss of the last epoch of the model's run in training, on training and validation rows.",
    ["model", "rows"],
    registry=REGISTRY,
)
TRAINER_MEMORY = Gauge(
    "fitserve_trainer_resident_bytes", "Resident memory of the trainer in a slot.", ["slot"], registry=REGISTRY
)

# Served models: the reaper reads the windows of all prediction processes
DRIFT_PSI = Gauge(
    "fitserve_drift_psi",
    "Population stability index of a column against the training rows; of each version the 20 most drifted columns.",
    ["model", "version", "column"],
    registry=REGISTRY,
)
DRIFT_WORST = Gauge(
    "fitserve_drift_worst_psi", "The largest index of a version's columns.", ["model", "version"], registry=REGISTRY
)
DRIFT_MISSING = Gauge(
    "fitserve_drift_missing_ratio",
    "Share of requested rows without a value, of the same columns.",
    ["model", "version", "column"],
    registry=REGISTRY,
)
DRIFT_OUTPUT = Gauge(
    "fitserve_drift_prediction_psi",
    "Population stability index of predictions (classes, scores, values) against those of the training rows.",
    ["model", "version", "output", "part"],
    registry=REGISTRY,
)
DRIFT_ROWS = Gauge(
    "fitserve_drift_rows", "Rows counted in the sliding window.", ["model", "version"], registry=REGISTRY
)
LIVE_ACCURACY = Gauge(
    "fitserve_live_accuracy_ratio",
    "Share of correct predictions, by the posted ground truth.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_RMSE = Gauge(
    "fitserve_live_rmse",
    "Root mean square error by the posted ground truth, in the target's units.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_ROWS = Gauge("fitserve_live_rows", "Rows with ground truth.", ["model", "version", "output"], registry=REGISTRY)
LIVE_COVERED_ROWS = Gauge(
    "fitserve_live_covered_rows",
    "Rows with ground truth whose stored prediction had an interval or a set.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_COVERAGE = Gauge(
    "fitserve_live_coverage_ratio",
    "Share of the truths inside their interval or set, by the posted ground truth.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_LEVEL = Gauge(
    "fitserve_live_level_ratio",
    "Mean level of the intervals and sets that were answered.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_CALIBRATION_ROWS = Gauge(
    "fitserve_live_calibration_rows",
    "Rows with ground truth whose stored prediction had probabilities.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_CALIBRATION_ERROR = Gauge(
    "fitserve_live_calibration_error_ratio",
    "Expected calibration error of the likeliest label, by the posted ground truth.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
LIVE_BRIER = Gauge(
    "fitserve_live_brier", "Brier score by the posted ground truth.", ["model", "version", "output"], registry=REGISTRY
)
LIVE_LOG_LOSS = Gauge(
    "fitserve_live_log_loss", "Log loss by the posted ground truth.", ["model", "version", "output"], registry=REGISTRY
)
LIVE_BAD_SLICES = Gauge(
    "fitserve_live_bad_slices",
    "Labels of coverage_by whose coverage or accuracy is worse than chance explains.",
    ["model", "version", "output"],
    registry=REGISTRY,
)
FEEDBACK = Counter(
    "fitserve_feedback_rows_total",
    "Rows of ground truth posted: stored, repeated (posted before), unknown (no such prediction).",
    ["outcome"],
    registry=REGISTRY,
)
ROLLOUT_SHARE = Gauge(
    "fitserve_rollout_share_ratio",
    "Share of the traffic that a version in an active rollout answers; 0 is a shadow.",
    ["model", "version"],
    registry=REGISTRY,
)
ROLLOUT_STEP_SECONDS = Gauge(
    "fitserve_rollout_step_seconds", "Time since an active rollout entered its step.", ["model"], registry=REGISTRY
)
ROLLOUT_GUARD = Gauge(
    "fitserve_rollout_guard_used_ratio",
    "Certain lower bound of a guard's figure, divided by its limit: above 1 the version is taken back.",
    ["model", "guard"],
    registry=REGISTRY,
)
ROLLOUTS_ENDED = Counter(
    "fitserve_rollouts_ended_total",
    "Rollouts that ended by themselves, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
for _outcome in ("succeeded", "rolled_back", "aborted", "stalled"):
    ROLLOUTS_ENDED.labels(_outcome)  # start at 0, so that the first event shows as an increase

# Events, webhooks
DELIVERIES = Counter(
    "fitserve_webhook_deliveries_total",
    "Attempts at deliveries, by what became of the delivery: delivered, retried, failed (given up).",
    ["outcome"],
    registry=REGISTRY,
)
for _outcome in ("delivered", "retried", "failed"):
    DELIVERIES.labels(_outcome)
DELIVERY_SECONDS = Histogram(
    "fitserve_webhook_duration_seconds", "Time of one attempt at a delivery.", buckets=REQUEST, registry=REGISTRY
)
DELIVERIES_PENDING = Gauge(
    "fitserve_webhook_deliveries_pending", "Deliveries that wait for their first or next attempt.", registry=REGISTRY
)
DELIVERY_AGE = Gauge(
    "fitserve_webhook_oldest_due_seconds", "How long the oldest event or delivery has been due.", registry=REGISTRY
)
WEBHOOKS_DISABLED = Gauge("fitserve_webhooks_disabled", "Webhooks that are disabled.", registry=REGISTRY)

# Automations
FIRINGS = Counter(
    "fitserve_automation_firings_total",
    "Times that automations were due, by what came of it: promoted, rollout, notified, nothing, rejected, refused, "
    "failed, skipped.",
    ["outcome"],
    registry=REGISTRY,
)
for _outcome in ("promoted", "rollout", "notified", "nothing", "rejected", "refused", "failed", "skipped"):
    FIRINGS.labels(_outcome)
AUTOMATIONS_PAUSED = Gauge(
    "fitserve_automations_paused", "Automations that are paused after repeated failures.", registry=REGISTRY
)
AUTOMATION_ROUND = Gauge(
    "fitserve_automation_last_round_timestamp_seconds",
    "When this process last looked at all automations as their leader.",
    registry=REGISTRY,
)

# Processes
DISK_FREE = Gauge("fitserve_disk_free_bytes", "Free bytes of the disk under FITSERVE_HOME.", registry=REGISTRY)
DISK_SIZE = Gauge("fitserve_disk_size_bytes", "Bytes of the disk under FITSERVE_HOME.", registry=REGISTRY)
BLOBS_COLLECTED = Counter("fitserve_blobs_collected_total", "Unreferenced blobs removed.", registry=REGISTRY)


@dataclass(frozen=True, slots=True)
class PredictMetric:
    """A metric of the data plane, which counts in plain integers and builds metrics only when scraped."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    type: str = ""

    @property
    def kind(self) -> str:
        """counter, gauge or histogram."""
        return self.type or ("counter" if self.name.endswith("_total") else "gauge")


_P = "fitserve_predict_"
PREDICT: Final[dict[str, PredictMetric]] = {
    "requests": PredictMetric(
        _P + "requests_total", "Requests answered by the prediction protocols.", ("protocol", "operation", "status")
    ),
    "seconds": PredictMetric(
        _P + "duration_seconds",
        "Time from request to response, by the version that answered (empty: none).",
        ("protocol", "model", "version"),
        "histogram",
    ),
    "phases": PredictMetric(
        _P + "phase_seconds",
        "Time by phase: decode, queue, encode, infer, answer; the fast lane measures one batch in 16.",
        ("lane", "phase"),
        "histogram",
    ),
    "sizes": PredictMetric(
        _P + "batch_rows", "Rows per inference call, of every lane.", ("model", "version"), "histogram"
    ),
    "classes": PredictMetric(
        _P + "classes_total",
        "Predicted classes of the rows that drift samples; 20 by name, the others as other.",
        ("model", "version", "output", "class"),
    ),
    "scores": PredictMetric(
        _P + "score",
        "Probability of the predicted class (with one sigmoid unit: of the second), of the rows that drift samples.",
        ("model", "version", "output"),
        "histogram",
    ),
    "values": PredictMetric(
        _P + "value",
        "Predicted values of a regression, of the rows that drift samples; buckets are deciles of the training rows'.",
        ("model", "version", "output"),
        "histogram",
    ),
    "refused": PredictMetric(
        _P + "refused_rows_total",
        "Rows refused, by reason; a refused request that names no row counts as one.",
        ("reason",),
    ),
    "swaps": PredictMetric(_P + "swaps_total", "Changes of the version that answers for a model.", ("model",)),
    "processes": PredictMetric(_P + "processes", "1 for each prediction process in this scrape."),
    "rows": PredictMetric(_P + "rows_total", "Rows predicted.", ("model", "version")),
    "warnings": PredictMetric(_P + "warnings_total", "Warnings returned with predictions.", ("model", "code")),
    "in_flight": PredictMetric(_P + "requests_in_flight", "Predictions in progress."),
    "shed": PredictMetric(_P + "shed_total", "Requests refused with 429 because a queue was full."),
    "expired": PredictMetric(_P + "expired_total", "Requests answered 504 because their deadline had passed."),
    "fast_requests": PredictMetric(_P + "fast_lane_requests_total", "Requests answered by the fast lane."),
    "fast_batches": PredictMetric(_P + "fast_lane_batches_total", "Inference calls of the fast lane."),
    "batches": PredictMetric(_P + "batches_total", "Inference calls of the micro-batching queue."),
    "batched_rows": PredictMetric(_P + "batched_rows_total", "Rows inferred by the micro-batching queue."),
    "shadow": PredictMetric(_P + "shadow_total", "Shadow predictions, by outcome.", ("model", "label", "outcome")),
    "shadow_difference": PredictMetric(
        _P + "shadow_largest_difference",
        "Largest difference between a shadow's predictions and those returned.",
        ("model", "label"),
    ),
    "loaded": PredictMetric(_P + "networks_loaded", "Models in memory."),
    "bytes": PredictMetric(_P + "networks_bytes", "Estimated bytes of the models in memory."),
    "broken": PredictMetric(_P + "versions_broken", "Versions that cannot be loaded (1 each).", ("model", "version")),
    "loads": PredictMetric(_P + "loads_total", "Models loaded."),
    "load_failures": PredictMetric(_P + "load_failures_total", "Models that could not be loaded.", ("model",)),
    "evictions": PredictMetric(_P + "evictions_total", "Models unloaded to stay within the memory budget."),
    "poll_failures": PredictMetric(_P + "poll_failures_total", "Polls of the registry that failed."),
}


def watch_disk(folder: Path) -> None:
    """Report the disk usage of this folder in every scrape."""

    def usage(part: int) -> float:
        try:
            return float(shutil.disk_usage(folder)[part])
        except OSError:
            return float("nan")

    DISK_SIZE.set_function(lambda: usage(0))
    DISK_FREE.set_function(lambda: usage(2))


def exposition() -> bytes:
    """Return the text of a scrape."""
    return generate_latest(REGISTRY)
