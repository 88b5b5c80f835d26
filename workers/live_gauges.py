"""Drift and live figures as gauges: the sums of all prediction processes' windows, read now and then by the reaper."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from sqlalchemy import Engine

from fitserve import artifacts, db, live_statistics, telemetry
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.settings import Settings

COLUMNS = 20  # of a version, the most drifted ones: a table of thousands of columns stays readable
VERSIONS = 200  # that are shown at most
_GAUGES = (
    *(telemetry.DRIFT_PSI, telemetry.DRIFT_WORST, telemetry.DRIFT_MISSING, telemetry.DRIFT_OUTPUT),
    *(telemetry.DRIFT_ROWS, telemetry.LIVE_ACCURACY, telemetry.LIVE_RMSE, telemetry.LIVE_ROWS),
)


class LiveGauges:
    """Sets the gauges anew at each `refresh`; what is asked no more is shown no more."""

    def __init__(self, settings: Settings, engine: Engine, blobs: BlobStore) -> None:
        self.settings, self.engine, self.blobs = settings, engine, blobs
        self._training: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by artifact

    def refresh(self) -> None:
        """Reads the windows and ground truth; removes what is too old."""
        window = self.settings.drift_window_seconds
        live_statistics.expire(self.engine, window, self.settings.feedback_seconds)
        with db.reading(self.engine) as session:
            asked = live_statistics.asked(session, window)[:VERSIONS]
            found = [(key, live_statistics.totals(session, key[0], key[2], window)) for key in asked]
            figures = live_statistics.figures(session, self.settings.feedback_seconds)
        known = [(key, totals, self._manifest(key[2])) for key, totals in found]
        for gauge in _GAUGES:
            gauge.clear()
        for (model, version, _), totals, manifest in known:
            self._show(model, str(version), totals, manifest)
        for one in figures[:VERSIONS]:
            labels = (one["model"], str(one["version"]), one["output"])
            telemetry.LIVE_ROWS.labels(*labels).set(one["rows"])
            if one["accuracy"] is not None:
                telemetry.LIVE_ACCURACY.labels(*labels).set(one["accuracy"])
            else:
                telemetry.LIVE_RMSE.labels(*labels).set(one["rmse"])

    def _show(self, model: str, version: str, totals: live_statistics.Totals, manifest: dict[str, Any]) -> None:
        telemetry.DRIFT_ROWS.labels(model, version).set(totals.rows)
        columns = live_statistics.column_reports(manifest.get("training_distribution") or {}, totals)
        told = [one for one in columns if one["psi"] is not None]
        if told:
            telemetry.DRIFT_WORST.labels(model, version).set(told[0]["psi"])
        for one in told[:COLUMNS]:
            telemetry.DRIFT_PSI.labels(model, version, one["column"]).set(one["psi"])
            telemetry.DRIFT_MISSING.labels(model, version, one["column"]).set(one["missing"])
        for one in live_statistics.output_reports(manifest.get("prediction_distribution") or {}, totals):
            if one["psi"] is not None:
                telemetry.DRIFT_OUTPUT.labels(model, version, one["output"], one["part"]).set(one["psi"])

    def _manifest(self, artifact: str) -> dict[str, Any]:
        if artifact not in self._training:
            try:
                whole = artifacts.read(self.blobs, artifact).manifest
            except FitserveError:
                return {}
            parts = ("training_distribution", "prediction_distribution")
            self._training[artifact] = {part: whole.get(part) for part in parts}
            while len(self._training) > VERSIONS:
                self._training.popitem(last=False)
        return self._training[artifact]
