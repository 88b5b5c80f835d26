"""Fit a run's calibrators on rows that training did not see, and decide whether they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workers.trainer.calibration.calibrator import (
    Calibrator,
    fit_knots,
    fit_temperature,
    log_odds,
    matching_temperature,
    odds_against_rest,
)

Source = Literal["validation", "out_of_fold"]
FEWEST_ROWS = 50  # fewest held-out rows: with fewer, an apparent need for calibration is chance
NEGLIGIBLE = 0.02  # logarithm of a temperature that changes no probability by more than 0.0045
MAX_ROWS = 50_000  # most rows that calibrators are fitted on
CROSS_FITS = 5

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """One output's probabilities before calibration on held-out rows, with their truth.

    `truth` is label indices (rows,), or 0 and 1 (rows, units) where each unit is a probability by itself:
    `independent`.
    With folds, `probabilities` are those of single members, each on the rows that it was held back from; `members` are
    then all members' probabilities (members, rows, units) of rows that none of them was trained on.
    """

    probabilities: Array
    truth: Array
    independent: bool
    source: Source
    members: Array | None = None


@dataclass(frozen=True, slots=True)
class FittedCalibration:
    """A fitted calibration: `calibrator` for the served model (None: no change), `of_member` for one member of folds"""

    calibrator: Calibrator | None
    of_member: Calibrator | None
    why: str
    rows: int
    source: Source

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's entry: the method (None if nothing is changed), its parameters, and the reason."""
        own = {"method": None} if self.calibrator is None else self.calibrator.to_json()
        return {**own, "why": self.why, "rows": self.rows, "source": self.source}


def fit(rows: CalibrationRows, method: str) -> FittedCalibration:
    """Fit the calibrator that a spec asks for: `auto`, `temperature`, `isotonic` or `none`."""
    count, units = rows.probabilities.shape

    def left(why: str) -> FittedCalibration:
        return FittedCalibration(None, None, why, count, rows.source)

    if method == "none":
        return left("calibrate: none")
    if count < FEWEST_ROWS:
        return left(f"{count} held-out rows are too few; it takes {FEWEST_ROWS}")
    auto = method == "auto"
    fitted = [_temperature(rows, unit, auto) for unit in range(units if rows.independent else 1)]
    away = max(one.away for one in fitted)
    helps = [not auto or abs(one.log_served) >= NEGLIGIBLE for one in fitted]
    if not any(helps):
        return left("the held-out rows do not show that it helps: it would change no probability by more than 0.005")
    of_member = (
        _isotonic(rows)
        if method == "isotonic"
        else Calibrator(
            "temperature",
            rows.independent,
            tuple(one.temperature if used else one.ratio for one, used in zip(fitted, helps, strict=True)),
        )
    )
    why = f"{away:.1f} standard errors from no change" if away > 1 else "the mean of networks is less sure than each"
    why = why if auto else "asked for"
    return FittedCalibration(of_member.stretched([one.ratio for one in fitted]), of_member, why, count, rows.source)


@dataclass(frozen=True, slots=True)
class _Temperature:
    """A temperature, the standard errors by which it was away from 1, and its ratio to that of the served outputs."""

    temperature: float
    away: float
    ratio: float

    @property
    def log_served(self) -> float:
        """The logarithm of the served outputs' temperature."""
        return float(np.log(self.temperature / self.ratio))


def shrunk(temperature: float, error: float) -> float:
    """Return a temperature that is nearer to 1 the less its distance exceeds its standard error.

    The logarithm is multiplied by 1 - (error / logarithm)^2, or 0 (the positive part of James and Stein 1961): chance
    alone moves it as far as its error.
    """
    away = float(np.log(temperature))
    return float(np.exp(away * (1 - (error / away) ** 2))) if abs(away) > error else 1.0


def _temperature(rows: CalibrationRows, unit: int, auto: bool) -> _Temperature:
    picked = _sample(len(rows.truth))
    probabilities, truth, members = rows.probabilities[picked], rows.truth[picked], rows.members
    if rows.independent:
        probabilities, truth = probabilities[:, unit : unit + 1], truth[:, unit]
        members = None if members is None else members[:, :, unit : unit + 1]
    temperature, error = fit_temperature(probabilities, truth, rows.independent)
    away = abs(float(np.log(temperature))) / error
    temperature = shrunk(temperature, error) if auto else temperature
    ratio = 1.0
    if members is not None and members.shape[1]:
        ratio = temperature / matching_temperature(members, temperature, rows.independent)
    return _Temperature(temperature, away, ratio)


def _isotonic(rows: CalibrationRows) -> Calibrator:
    picked = _sample(len(rows.truth))
    probabilities, truth = rows.probabilities[picked], rows.truth[picked]
    if rows.independent:
        scores, hits = log_odds(probabilities), truth > 0
    else:
        scores = odds_against_rest(probabilities)
        hits = truth[:, None] == np.arange(probabilities.shape[1])
    knots = tuple(fit_knots(scores[:, unit], hits[:, unit]) for unit in range(scores.shape[1]))
    return Calibrator("isotonic", rows.independent, knots=knots)


def _sample(rows: int) -> Array:
    if rows <= MAX_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MAX_ROWS, replace=False))


def cross_fitted(rows: CalibrationRows, method: str) -> Array:
    """Return calibrated probabilities of the rows themselves, each by a calibrator that was fitted on other rows."""
    fold = np.random.default_rng(0).permutation(len(rows.truth)) % CROSS_FITS
    calibrated = np.array(rows.probabilities, np.float64)
    for held in range(CROSS_FITS):
        others, own = fold != held, fold == held
        fitted = fit(replace(rows, probabilities=rows.probabilities[others], truth=rows.truth[others]), method)
        if fitted.of_member is not None:
            calibrated[own] = fitted.of_member.apply(rows.probabilities[own])
    return calibrated
