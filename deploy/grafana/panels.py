"""What the four Grafana dashboards show. Each panel is a line or two: title, unit, queries with their legends.

With many models, a panel shows the `$top` largest ones, and `$model` selects some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6  # panel widths in Grafana's 24 columns
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """`queries` are (PromQL, legend)."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = HALF
    kind: str = "timeseries"
    help: str = ""
    thresholds: tuple[float, ...] = ()
    maximum: float | None = None  # end of the axis


@dataclass(frozen=True)
class Dashboard:
    """`uid` is part of its URL; `by_model` adds the selection of models."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    by_model: bool = False
    tags: tuple[str, ...] = field(default=("fitserve",))


def stat(title: str, query: str, unit: str = "short", thresholds: tuple[float, ...] = (), help: str = "") -> Panel:
    """One number."""
    return Panel(title, ((query, ""),), unit, QUARTER, "stat", help, thresholds)


def top(query: str) -> str:
    """Select the `$top` largest series."""
    return f"topk($top, {query})"


def quantile(share: float, series: str, by: str, where: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({series}_bucket{where}{RATE})))"


HTTP, PRE = "fitserve_http", "fitserve_predict"
MODEL = '{model=~"$model"}'

SERVICE = Dashboard(
    "fitserve-service",
    "fitserve: Service",
    (
        stat("Processes up", 'count(up{job=~"api|predict|worker|reaper"} == 1)'),
        stat("Requests per second", f"sum(rate({HTTP}_requests_total{RATE}))", "reqps"),
        stat(
            "API errors",
            f'sum(rate({HTTP}_requests_total{{status=~"5.."}}{RATE}))'
            f" / sum(rate({HTTP}_requests_total{RATE})) or vector(0)",
            "percentunit",
            (0.01, 0.05),
        ),
        stat("Disk free", "min(fitserve_disk_free_bytes / fitserve_disk_size_bytes)", "percentunit", (0.1, 0.2)),
        Panel("Requests by status", ((f"sum by (status) (rate({HTTP}_requests_total{RATE}))", "{{status}}"),), "reqps"),
        Panel("Busiest routes", ((top(f"sum by (route) (rate({HTTP}_requests_total{RATE}))"), "{{route}}"),), "reqps"),
        Panel(
            "Slowest routes (95th percentile)",
            ((top(quantile(0.95, f"{HTTP}_request_duration_seconds", "route")), "{{route}}"),),
            "s",
        ),
        Panel(
            "Duration by class of status (median)",
            ((quantile(0.5, f"{HTTP}_request_duration_seconds", "status_class"), "{{status_class}}"),),
            "s",
        ),
        Panel("In flight", ((f"sum by (job) ({HTTP}_requests_in_flight)", "{{job}}"),)),
        Panel(
            "Bodies",
            (
                (f"sum(rate({HTTP}_request_bytes_total{RATE}))", "received"),
                (f"sum(rate({HTTP}_response_bytes_total{RATE}))", "sent"),
            ),
            "Bps",
        ),
        Panel("Resident memory", (("sum by (job) (process_resident_memory_bytes)", "{{job}}"),), "bytes"),
        Panel("Processor", ((f"sum by (job) (rate(process_cpu_seconds_total{RATE}))", "{{job}}"),), "short"),
        Panel(
            "Uploads",
            (
                (f"sum by (outcome) (rate(fitserve_uploads_total{RATE}))", "{{outcome}}"),
                (f"sum(rate(fitserve_upload_rows_refused_total{RATE}))", "rows skipped"),
            ),
        ),
        Panel("Bytes uploaded", ((f"sum(rate(fitserve_upload_bytes_total{RATE}))", "bytes"),), "Bps"),
        Panel("Releases", (("count by (version, python) (fitserve_build_info)", "{{version}}, Python {{python}}"),)),
        Panel("Garbage", ((f"sum(rate(fitserve_blobs_collected_total{RATE}))", "blobs removed"),)),
        Panel(
            "Webhook deliveries",
            ((f"sum by (outcome) (increase(fitserve_webhook_deliveries_total{RATE}))", "{{outcome}}"),),
        ),
        Panel(
            "Automations",
            ((f"sum by (outcome) (increase(fitserve_automation_firings_total{RATE}))", "{{outcome}}"),),
        ),
        Panel("Oldest due event", (("max(fitserve_webhook_oldest_due_seconds)", "due for"),), "s"),
    ),
)

PREDICTIONS = Dashboard(
    "fitserve-predictions",
    "fitserve: Predictions",
    (
        stat("Predictions per second", f"sum(rate({PRE}_requests_total{RATE}))", "reqps"),
        stat("Rows per second", f"sum(rate({PRE}_rows_total{RATE}))"),
        stat("99th percentile", quantile(0.99, f"{PRE}_duration_seconds", "job"), "s", (0.025, 0.05)),
        stat(
            "Fast lane",
            f"sum(rate({PRE}_fast_lane_requests_total{RATE})) / sum(rate({PRE}_requests_total{RATE}))",
            "percentunit",
            help="Share of requests handled by the fast lane",
        ),
        Panel(
            "Requests by protocol and status",
            ((f"sum by (protocol, status) (rate({PRE}_requests_total{RATE}))", "{{protocol}} {{status}}"),),
            "reqps",
        ),
        Panel(
            "Rows by model",
            ((top(f"sum by (model) (rate({PRE}_rows_total{MODEL}{RATE}))"), "{{model}}"),),
        ),
        Panel(
            "Slowest versions (99th percentile)",
            ((top(quantile(0.99, f"{PRE}_duration_seconds", "model, version", MODEL)), "{{model}} v{{version}}"),),
            "s",
        ),
        Panel(
            "Time by phase (mean)",
            (
                (
                    f"sum by (lane, phase) (rate({PRE}_phase_seconds_sum{RATE}))"
                    f" / sum by (lane, phase) (rate({PRE}_phase_seconds_count{RATE}))",
                    "{{lane}}: {{phase}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Rows per inference call (mean)",
            (
                (
                    top(
                        f"sum by (model) (rate({PRE}_batch_rows_sum{MODEL}{RATE}))"
                        f" / sum by (model) (rate({PRE}_batch_rows_count{MODEL}{RATE}))"
                    ),
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            "Rejected",
            (
                (f"sum by (reason) (rate({PRE}_refused_rows_total{RATE}))", "{{reason}}"),
                (f"sum(rate({PRE}_shed_total{RATE}))", "shed"),
                (f"sum(rate({PRE}_expired_total{RATE}))", "expired"),
            ),
        ),
        Panel(
            "Predicted classes",
            (
                (
                    top(f"sum by (model, output, class) (rate({PRE}_classes_total{MODEL}{RATE}))"),
                    "{{model}} {{output}}={{class}}",
                ),
            ),
        ),
        Panel(
            "Warnings",
            ((top(f"sum by (model, code) (rate({PRE}_warnings_total{MODEL}{RATE}))"), "{{model}} {{code}}"),),
        ),
        Panel("In flight", ((f"sum({PRE}_requests_in_flight)", "in flight"),)),
        Panel(
            "Micro-batches",
            (
                (f"sum(rate({PRE}_batches_total{RATE}))", "batches"),
                (f"sum(rate({PRE}_batched_rows_total{RATE}))", "rows"),
                (f"sum(rate({PRE}_fast_lane_batches_total{RATE}))", "fast-lane batches"),
            ),
        ),
    ),
    by_model=True,
)

TRAINING = Dashboard(
    "fitserve-training",
    "fitserve: Training",
    (
        stat("Queued", 'max(fitserve_runs{state="queued"})', thresholds=(50, 500)),
        stat("Running", 'max(fitserve_runs{state="running"})'),
        stat("Oldest queued", "max(fitserve_queue_oldest_seconds)", "s", (60, 300)),
        stat("Workers up", 'count(up{job="worker"} == 1) or vector(0)'),
        Panel("Runs by state", (("max by (state) (fitserve_runs)", "{{state}}"),)),
        Panel("Oldest queued run", (("max(fitserve_queue_oldest_seconds)", "age"),), "s"),
        Panel(
            "Runs per hour",
            (
                (f"3600 * sum(rate(fitserve_runs_created_total{RATE}))", "created"),
                (f"3600 * sum by (state) (rate(fitserve_runs_finished_total{RATE}))", "{{state}}"),
                (f"3600 * sum(rate(fitserve_run_attempts_total{RATE}))", "attempts"),
            ),
        ),
        Panel(
            "Failures per hour by cause",
            (
                (f"3600 * sum by (cause) (rate(fitserve_run_failures_total{RATE}))", "{{cause}}"),
                (f"3600 * sum(rate(fitserve_runs_reaped_total{RATE}))", "workers lost"),
                (f"3600 * sum(rate(fitserve_runs_dispatched_total{RATE}))", "published again"),
            ),
        ),
        Panel(
            "Queue time (median and 95th percentile)",
            (
                (f"histogram_quantile(0.5, sum by (le) (rate(fitserve_run_wait_seconds_bucket{RATE})))", "median"),
                (
                    f"histogram_quantile(0.95, sum by (le) (rate(fitserve_run_wait_seconds_bucket{RATE})))",
                    "95th percentile",
                ),
            ),
            "s",
        ),
        Panel(
            "Run time (median and 95th percentile)",
            (
                (f"histogram_quantile(0.5, sum by (le) (rate(fitserve_run_duration_seconds_bucket{RATE})))", "median"),
                (
                    f"histogram_quantile(0.95, sum by (le) (rate(fitserve_run_duration_seconds_bucket{RATE})))",
                    "95th percentile",
                ),
            ),
            "s",
        ),
        Panel("Epochs per second", ((f"sum(rate(fitserve_epochs_total{RATE}))", "epochs"),)),
        Panel("Rows trained per second", ((f"sum(rate(fitserve_rows_trained_total{RATE}))", "rows"),)),
        Panel(
            "Losses of runs in training",
            ((top('fitserve_run_last_loss{model=~"$model"}'), "{{model}}: {{rows}}"),),
        ),
        Panel(
            "Trainer memory",
            ((top("fitserve_trainer_resident_bytes"), "{{instance}} slot {{slot}}"),),
            "bytes",
        ),
    ),
    by_model=True,
)

DRIFT = Dashboard(
    "fitserve-drift",
    "fitserve: Models & drift",
    (
        stat("Networks loaded", f"sum({PRE}_networks_loaded)"),
        stat("Versions that cannot be loaded", f"sum({PRE}_versions_broken) or vector(0)", thresholds=(1, 1)),
        stat("Drifting models", "count(max by (model) (fitserve_drift_worst_psi) > 0.25) or vector(0)"),
        stat("Worst PSI", "max(fitserve_drift_worst_psi)", thresholds=(0.1, 0.25)),
        Panel(
            "Most drifted models",
            ((top(f"max by (model, version) (fitserve_drift_worst_psi{MODEL})"), "{{model}} v{{version}}"),),
            thresholds=(0.1, 0.25),
            help="Population stability index (PSI) of the worst column: below 0.1 no drift, above 0.25 strong drift.",
        ),
        Panel(
            "Most drifted columns",
            (
                (
                    top(f"max by (model, version, column) (fitserve_drift_psi{MODEL})"),
                    "{{model}} v{{version}} {{column}}",
                ),
            ),
            thresholds=(0.1, 0.25),
        ),
        Panel(
            "Missing values",
            (
                (
                    top(f"max by (model, version, column) (fitserve_drift_missing_ratio{MODEL})"),
                    "{{model}} v{{version}} {{column}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Prediction drift",
            (
                (
                    top(f"max by (model, version, output, part) (fitserve_drift_prediction_psi{MODEL})"),
                    "{{model}} v{{version}} {{output}} {{part}}",
                ),
            ),
            thresholds=(0.1, 0.25),
        ),
        Panel(
            "Rows in the window",
            ((top(f"max by (model, version) (fitserve_drift_rows{MODEL})"), "{{model}} v{{version}}"),),
        ),
        Panel(
            "Probability of the predicted class (median)",
            (
                (
                    top(quantile(0.5, f"{PRE}_score", "model, output", MODEL)),
                    "{{model}} {{output}}",
                ),
            ),
            maximum=1.0,
        ),
        Panel(
            "Regression predictions (median)",
            (
                (
                    top(quantile(0.5, f"{PRE}_value", "model, output", MODEL)),
                    "{{model}} {{output}}",
                ),
            ),
        ),
        Panel(
            "Live accuracy (worst)",
            (
                (
                    f"bottomk($top, max by (model, version, output) (fitserve_live_accuracy_ratio{MODEL}))",
                    "{{model}} v{{version}} {{output}}",
                ),
            ),
            "percentunit",
            maximum=1.0,
        ),
        Panel(
            "Live error (RMSE)",
            (
                (
                    top(f"max by (model, version, output) (fitserve_live_rmse{MODEL})"),
                    "{{model}} v{{version}} {{output}}",
                ),
            ),
        ),
        Panel(
            "Live coverage, beside its level (worst)",
            (
                (
                    f"bottomk($top, max by (model, version, output) (fitserve_live_coverage_ratio{MODEL}))",
                    "{{model}} v{{version}} {{output}}",
                ),
                (
                    f"bottomk($top, max by (model, version, output) (fitserve_live_level_ratio{MODEL}))",
                    "{{model}} v{{version}} {{output}}: level",
                ),
            ),
            "percentunit",
            maximum=1.0,
        ),
        Panel(
            "Live calibration error",
            (
                (
                    top(f"max by (model, version, output) (fitserve_live_calibration_error_ratio{MODEL})"),
                    "{{model}} v{{version}} {{output}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Slices gone bad",
            (
                (
                    top(f"max by (model, version, output) (fitserve_live_bad_slices{MODEL})"),
                    "{{model}} v{{version}} {{output}}",
                ),
            ),
        ),
        Panel(
            "Rollouts: share of the traffic",
            ((top(f"max by (model, version) (fitserve_rollout_share_ratio{MODEL})"), "{{model}} v{{version}}"),),
            "percentunit",
            maximum=1.0,
        ),
        Panel(
            "Rollouts: guards, as shares of their limits",
            ((top(f"max by (model, guard) (fitserve_rollout_guard_used_ratio{MODEL})"), "{{model}} {{guard}}"),),
            "percentunit",
        ),
        Panel(
            "Rollouts: time in a step",
            ((top(f"max by (model) (fitserve_rollout_step_seconds{MODEL})"), "{{model}}"),),
            "s",
        ),
        Panel(
            "Rollouts ended",
            (("sum by (outcome) (increase(fitserve_rollouts_ended_total[1h]))", "{{outcome}}"),),
        ),
        Panel(
            "Ground truth",
            (
                (f"sum by (outcome) (rate(fitserve_feedback_rows_total{RATE}))", "{{outcome}}"),
                (top(f"max by (model) (fitserve_live_rows{MODEL})"), "{{model}}: rows known"),
            ),
        ),
        Panel(
            "Loads, swaps, evictions",
            (
                (f"sum(rate({PRE}_loads_total{RATE}))", "loads"),
                (f"sum(rate({PRE}_load_failures_total{RATE}))", "failed loads"),
                (f"sum(rate({PRE}_swaps_total{RATE}))", "swaps"),
                (f"sum(rate({PRE}_evictions_total{RATE}))", "evictions"),
                (f"sum(rate({PRE}_poll_failures_total{RATE}))", "failed polls of the registry"),
            ),
        ),
        Panel("Network memory", ((f"sum by (instance) ({PRE}_networks_bytes)", "{{instance}}"),), "bytes"),
        Panel(
            "Shadows",
            (
                (f"sum by (model, outcome) (rate({PRE}_shadow_total{MODEL}{RATE}))", "{{model}} {{outcome}}"),
                (top(f"{PRE}_shadow_largest_difference{MODEL}"), "{{model}} {{label}}: largest difference"),
            ),
        ),
    ),
    by_model=True,
)

DASHBOARDS = (SERVICE, PREDICTIONS, TRAINING, DRIFT)
