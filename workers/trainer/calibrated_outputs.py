"""A trained network's outputs before calibration, and the calibrators fitted on them, on rows not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.target_encoder import FittedTarget
from workers.trainer.calibration import fit
from workers.trainer.calibration.calibrator import Calibrator
from workers.trainer.calibration.fit import CalibrationRows, FittedCalibration, Source
from workers.trainer.data.feeds import EncodedRows
from workers.trainer.insight import reliability
from workers.trainer.insight.analysis import PredictedOutput
from workers.trainer.insight.ensemble import EnsembleOutputs

FEWEST_UNSEEN = 30  # rows on which members are compared; with fewer, the held-out rows are used
MAX_UNSEEN = 5_000

Array = NDArray[Any]
Outputs = dict[str, Array]


@dataclass
class CalibratedOutputs:
    """The outputs of a network, or of an ensemble's members, with one set of weights.

    `encoded` holds the rows by part; with `folds`, each member's outputs for the validation part are for the rows that
    it was held back from.
    """

    outputs: EnsembleOutputs
    targets: Sequence[FittedTarget]
    encoded: Mapping[str, EncodedRows]
    method: str  # the spec's `calibrate`
    folds: bool
    seed: int
    _by_part: dict[str, Outputs] = field(default_factory=dict)
    _fitted: dict[str, FittedCalibration] | None = None

    def before(self, part: str) -> Outputs:
        """Return the outputs for a part's rows before calibration, by target (rows, units)."""
        if part not in self._by_part:
            raw = self.outputs.combined(part, self.encoded[part].x)
            self._by_part[part] = self.outputs.served(raw, self.targets)
        return self._by_part[part]

    @property
    def fitted(self) -> dict[str, FittedCalibration]:
        """The calibration of each classification, by target; empty where no rows are held out."""
        if self._fitted is None:
            self._fitted = {
                target.name: fit.fit(rows, self.method)
                for target in self.targets
                if (rows := self.rows(target)) is not None
            }
        return self._fitted

    @property
    def calibrators(self) -> dict[str, Calibrator]:
        """The calibrators of the served model, by target."""
        return {name: one.calibrator for name, one in self.fitted.items() if one.calibrator is not None}

    def count(self, part: str) -> int:
        """Return the number of rows of a part."""
        return len(next(iter(self.encoded[part].y.values())))

    def rows(self, target: FittedTarget) -> CalibrationRows | None:
        """Return the rows that a classification is calibrated on; None if there are none."""
        if target.task == "regression" or not self.count("validation"):
            return None
        probabilities = self.before("validation")[target.name]
        independent = has_independent_units(target, probabilities.shape[1])
        if not _are_probabilities(probabilities, independent):
            return None
        truth = truth_of(target, self.encoded["validation"].y[target.name], independent)
        source: Source = "out_of_fold" if self.folds else "validation"
        return CalibrationRows(probabilities, truth, independent, source, self.members(target) if self.folds else None)

    def members(self, target: FittedTarget) -> Array:
        """Return every member's probabilities of rows that none of them was trained on (members, rows, units)."""
        part = "test" if self.count("test") >= FEWEST_UNSEEN else "validation"
        x = {name: values[:MAX_UNSEEN] for name, values in self.encoded[part].x.items()}
        raw = self.outputs.by_member(x)
        count = len(next(iter(raw.values())))
        return np.stack(
            [
                self.outputs.served({name: values[member] for name, values in raw.items()}, self.targets)[target.name]
                for member in range(count)
            ]
        )

    def report(self, after: Mapping[str, Outputs]) -> dict[str, Any]:
        """Report the effect of calibration, by prediction: on the test part, else cross-fitted on its own rows.

        `after` are the served outputs by part.
        """
        report: dict[str, Any] = {}
        for prediction in PredictedOutput.all_of(self.targets):
            fitted = self.fitted.get(prediction.target.name)
            if fitted is None:
                continue
            entry: dict[str, Any] = {
                "method": None if fitted.calibrator is None else fitted.calibrator.method,
                "why": fitted.why,
                "source": fitted.source,
                "fitted_rows": fitted.rows,
            }
            if fitted.calibrator is not None:
                part = "test" if self.count("test") else "validation"
                before, truth = self.before(part), prediction.truth(self.encoded[part].y)
                calibrated = prediction.predicted(self._after(part, prediction.target, after))
                uncalibrated = prediction.predicted(before)
                compared = reliability.report(truth, uncalibrated, calibrated, prediction.labels, self.seed)
                entry |= {**fitted.calibrator.to_json(), "part": part, **compared}
            report[prediction.name] = entry
        return report

    def _after(self, part: str, target: FittedTarget, after: Mapping[str, Outputs]) -> Mapping[str, Array]:
        if part == "test":
            return after[part]
        rows = self.rows(target)
        assert rows is not None
        return {target.name: fit.cross_fitted(rows, self.method)}


def has_independent_units(target: FittedTarget, units: int) -> bool:
    """Return whether each unit of a classification is a probability by itself; else a row's units sum to 1."""
    return target.task == "multilabel" or units == 1


def truth_of(target: FittedTarget, encoded: Array, independent: bool) -> Array:
    """Return label indices (rows,), or 0 and 1 (rows, units) of independent units."""
    if independent:
        return encoded.reshape(len(encoded), -1).astype(np.int64)
    if target.encoding == "one_hot":
        return np.asarray(encoded.argmax(axis=-1))
    return encoded.reshape(len(encoded)).astype(np.int64)


def _are_probabilities(values: Array, independent: bool) -> bool:
    inside = (
        bool(np.isfinite(values).all()) and float(values.min(initial=0.0)) >= 0 and float(values.max(initial=1.0)) <= 1
    )
    return inside and (independent or bool(np.allclose(values.sum(axis=1), 1.0, atol=1e-3)))


def brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report without curves, for a run's result."""
    return {
        name: {
            key: {figure: one for figure, one in value.items() if figure != "by_label"}
            if key in ("before", "after")
            else value
            for key, value in entry.items()
            if key != "knots"
        }
        for name, entry in report.items()
    }
