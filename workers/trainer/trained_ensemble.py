"""A run whose members are trained, and served as one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.datasets.folds import held_out_by
from fitserve.spec.ensemble import members_of
from workers.trainer.calibrated_outputs import CalibratedOutputs
from workers.trainer.data.preparation import PARTS
from workers.trainer.engine.combined_network import CombinedNetwork
from workers.trainer.export.stacked_graph import Stack
from workers.trainer.insight import folds
from workers.trainer.insight.ensemble import EnsembleOutputs, serving_ends
from workers.trainer.interface import OUT_OF_FOLD, TrainingResult
from workers.trainer.trained_run import METRICS_ROWS, TrainedRun, in_32_bits, weighted_like

DENSITY_ROWS = 1_000  # training rows whose share of zeros decides how a row is served


@dataclass
class TrainedEnsemble(TrainedRun):
    """A run whose members are trained: they are served as one network."""

    def __post_init__(self) -> None:
        assert self.outcome.members is not None
        self._members = self.outcome.members
        self._combined = CombinedNetwork(self.spec, self.setup.compiled.model)
        self._load(self._members.weights)

    @property
    def _network(self) -> keras.Model:
        return self._combined.model

    def _load(self, weights: Any) -> None:
        self._weights = weights
        self._combined.assign(weights)
        divided = self.prepared.folds
        member = held_out_by(divided, self.prepared.rows_of("validation")) if divided else None
        self._outputs = EnsembleOutputs(self.spec, self.setup.compiled.model, weights, member)

    def _precise(self) -> keras.Model:
        return self._network

    def _trained_weights(self) -> list[list[np.ndarray]]:
        return list(self._weights)

    def _calibrated_outputs(self) -> CalibratedOutputs:
        return self._calibration_of(self._outputs, bool(self.prepared.folds))

    def _one_network(self) -> keras.Model:
        model = self.setup.compiled.model
        for variable, value in zip(model.weights, self._weights[0], strict=True):
            variable.assign(value)
        return in_32_bits(model, self.spec)

    def _stack(self) -> Stack | None:
        usual = {name: values[:DENSITY_ROWS] for name, values in self.encoded["train"].x.items()}
        density = {name: float(np.count_nonzero(values) / max(1, values.size)) for name, values in usual.items()}
        return Stack(self.setup.compiled.model, self._weights, serving_ends(self.spec), density)

    def _metrics(self) -> dict[str, Any]:
        metrics = {}
        held_out = self.rows["validation"] if self.rows["validation"].count else self.rows["train"]
        for part in PARTS:
            rows = self.rows[part]
            if rows.count and not (part == "train" and rows.count > METRICS_ROWS):
                raw = self._outputs.combined(part, self.encoded[part].x)
                metrics[part] = self._with_meaning(self._outputs.metrics(raw, weighted_like(held_out, rows)), part)
        return metrics

    def _predictions(self, part: str) -> dict[str, Any] | None:
        if part != "validation" or not self.prepared.folds:
            return None
        raw = self._outputs.combined(part, self.encoded[part].x)
        return self._outputs.served(raw, self.prepared.encoding.targets.targets)

    def result(self) -> TrainingResult:
        result = super().result()
        if self.spec.folds is None:
            return result
        path = self.request.folder / "out_of_fold.parquet"
        rows, fold_of, predictions = self._out_of_fold()
        calibrated = self._as_calibrated({"validation": predictions})["validation"]
        numbers = self.prepared.rows_of("validation")
        table = folds.out_of_fold(rows, numbers, fold_of, calibrated, result.manifest["outputs"])
        pq.write_table(table, path)
        return replace(result, files={**result.files, OUT_OF_FOLD: path})

    def _out_of_fold(self) -> tuple[pa.Table, np.ndarray, dict[str, Any]]:
        """Return the rows that were held back, the fold of each, and what its member predicts for it."""
        rows = self.prepared.table.take(self.prepared.parts.validation)
        fold_of = held_out_by(self.prepared.folds, self.prepared.rows_of("validation"))
        return rows, fold_of, self._predictions("validation") or {}

    def _fold_figures(self) -> dict[str, Any]:
        if not self.prepared.folds:
            return {}
        rows, fold_of, predictions = self._out_of_fold()
        return {"folds": folds.fold_figures(self.prepared.encoding.targets, rows, predictions, fold_of)}

    def _snapshots(self) -> Mapping[int, list[np.ndarray]] | None:
        return {epoch: self._combined.in_order(weights) for epoch, weights in self._members.snapshots.items()}

    def _kept_weights(self) -> Mapping[int, Any]:
        return self._members.epoch_weights

    def _additional_results(self) -> dict[str, Any]:
        """Return a description of the ensemble, and its gain over one of its members on rows that none of them saw."""
        ensemble, count = self.spec.ensemble, members_of(self.spec.ensemble)
        unseen = "test" if self.rows["test"].count else "validation" if not self.prepared.folds else None
        gain = None
        if unseen is not None and self.rows[unseen].count:
            part = self.encoded[unseen]
            gain = {"part": unseen, **self._outputs.gain(part.x, part.y, self.prepared.encoding.targets.targets)}
        return {
            **self._fold_figures(),
            "ensemble": {
                "members": count,
                "validation": ensemble.validation if ensemble else None,
                "stacked": self._members.stacked,
                "losses": self._members.scores,
                "gain": gain,
            },
        }
