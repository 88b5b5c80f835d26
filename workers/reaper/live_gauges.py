"""Gauges of live models, from what prediction processes have recorded."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import Engine

from fitserve import artifacts, db, monitoring, telemetry
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.operations import history
from fitserve.rollouts import lifecycle
from fitserve.settings import Settings
from fitserve.tables import Rollout

MAX_COLUMNS = 20  # drift gauges of a version, the most drifted columns: a table may have thousands
MAX_VERSIONS = 200  # with drift gauges
_LIVE_GAUGES = (
    *(telemetry.DRIFT_PSI, telemetry.DRIFT_WORST, telemetry.DRIFT_MISSING, telemetry.DRIFT_OUTPUT),
    *(telemetry.DRIFT_ROWS, telemetry.LIVE_ACCURACY, telemetry.LIVE_RMSE, telemetry.LIVE_ROWS),
    *(telemetry.LIVE_COVERED_ROWS, telemetry.LIVE_COVERAGE, telemetry.LIVE_LEVEL, telemetry.LIVE_CALIBRATION_ROWS),
    *(telemetry.ROLLOUT_SHARE, telemetry.ROLLOUT_STEP_SECONDS, telemetry.ROLLOUT_GUARD),
    *(telemetry.LIVE_CALIBRATION_ERROR, telemetry.LIVE_BRIER, telemetry.LIVE_LOG_LOSS, telemetry.LIVE_BAD_SLICES),
)


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
