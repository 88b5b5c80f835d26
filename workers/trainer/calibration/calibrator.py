"""Calibrators: map a network's probabilities to ones that match the frequencies on rows it was not trained on.

A calibrator works on log odds or logits, which `workers.trainer.export.calibrated_graph` takes from the network itself:
probabilities near 1 have lost the digits that matter. This module fits calibrators and computes their figures, in
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logsumexp, softmax
from sklearn.isotonic import IsotonicRegression

Method = Literal["temperature", "isotonic"]
SMALLEST = 1e-30  # probabilities below count as this: the smallest float32 numbers are 0 for some processors
LARGEST = float(1 - np.finfo(np.float32).eps / 2)  # the largest float32 below 1
COLDEST, HOTTEST = 0.05, 20.0
FLAT = 1e-9  # nats of expected log probability: below, no temperature is better than another
UNKNOWN = 1e6  # standard error of what the rows do not tell
MAX_KNOTS = 50
NEAR = 0.05  # log odds
STEEPEST = 2.0  # steepest rise of an isotonic map over one unit of log odds: a steeper one would magnify rounding

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Knots:
    """A piecewise linear map of one unit's log odds to probabilities, constant outside."""

    log_odds: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibrator:
    """The map of one output. `independent`: each unit is a probability by itself; else the units of a row sum to 1.

    `temperatures` divide logits or log odds, one for all units, or one for each independent one. `knots` are an
    isotonic map's, by unit; the units of a row are divided by their sum afterwards, unless they are independent.
    """

    method: Method
    independent: bool
    temperatures: tuple[float, ...] = ()
    knots: tuple[Knots, ...] = ()

    def apply(self, probabilities: Floats) -> Floats:
        """Return calibrated probabilities, float64 (rows, units)."""
        if self.method == "temperature":
            scores = log_odds(probabilities) if self.independent else np.log(np.maximum(probabilities, SMALLEST))
            scores = scores / np.asarray(self.temperatures)
            return np.asarray(expit(scores) if self.independent else softmax(scores, axis=1), np.float64)
        scores = log_odds(probabilities) if self.independent else odds_against_rest(probabilities)
        mapped = np.stack(
            [np.interp(scores[:, index], one.log_odds, one.probabilities) for index, one in enumerate(self.knots)],
            axis=1,
        )
        return mapped if self.independent else mapped / mapped.sum(axis=1, keepdims=True)

    def stretched(self, ratios: Sequence[float]) -> Calibrator:
        """Return the calibrator that maps log odds as this one maps `ratios` times as much.

        `ratios` has one number for all units, or one for each independent one.
        """
        of = np.broadcast_to(np.asarray(ratios, np.float64), (max(len(self.knots), len(self.temperatures)),)).tolist()
        knots = tuple(
            replace(one, log_odds=tuple(x / ratio for x in one.log_odds))
            for one, ratio in zip(self.knots, of, strict=False)
        )
        temperatures = tuple(t / ratio for t, ratio in zip(self.temperatures, of, strict=False))
        return replace(self, temperatures=temperatures, knots=knots)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        members = asdict(self)
        del members["independent"]
        if self.method == "temperature":
            del members["knots"]
            members["temperature"] = list(members.pop("temperatures"))
        else:
            del members["temperatures"]
        return members


def log_odds(probabilities: Floats) -> Floats:
    """Return log(p / (1 - p)) of each, float64."""
    p = np.clip(np.asarray(probabilities, np.float64), SMALLEST, LARGEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def odds_against_rest(probabilities: Floats) -> Floats:
    """Return the log odds of each label against all others, from rows of probabilities that sum to 1."""
    p = np.maximum(np.asarray(probabilities, np.float64), SMALLEST)
    return np.asarray(np.log(p) - np.log(p @ (1.0 - np.eye(p.shape[1]))))


def fit_temperature(probabilities: Floats, truth: Ints, independent: bool) -> tuple[float, float]:
    """Fit the temperature of the lowest log loss (Guo et al. 2017), and the standard error of its logarithm.

    Independent units are fitted one at a time, as (rows, 1). Where every row is right, the lowest loss would be that of
    certainty, which so many rows do not prove: the temperature is 1, and its error very large.
    """
    if independent:
        z = log_odds(probabilities[:, 0])
        scores = np.stack([np.zeros(len(z)), z], axis=1)
        labels = np.asarray(truth).reshape(len(z)).astype(int)
    else:
        scores, labels = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST)), np.asarray(truth)
    own = scores[np.arange(len(labels)), labels]
    if (own >= scores.max(axis=1)).all():
        return 1.0, UNKNOWN

    def loss(cold: float) -> float:  # `cold` is the logarithm of 1 / temperature
        return float((logsumexp(scores * np.exp(cold), axis=1) - own * np.exp(cold)).mean())

    bounds = (-np.log(HOTTEST), -np.log(COLDEST))
    cold = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x)
    return float(np.exp(-cold)), _error(scores, own, cold)


def _error(scores: Floats, own: Floats, cold: float) -> float:
    """Return the standard error of `cold`, by the sandwich estimator; very large if the rows are uninformative."""
    beta = np.exp(cold)
    shares = softmax(scores * beta, axis=1)
    expected = (shares * scores).sum(axis=1)
    slopes = beta * (expected - own)  # slope of each row's loss
    bend = beta**2 * ((shares * scores**2).sum(axis=1) - expected**2).sum()
    return float(np.sqrt((slopes**2).sum()) / bend) if bend > 1e-12 else UNKNOWN


def fit_knots(scores: Floats, hits: NDArray[Any]) -> Knots:
    """Fit an isotonic map (Zadrozny and Elkan 2002) of log odds to the share of rows that hit, at bins' means.

    Bins within `NEAR` of each other are merged, and the map rises by at most `STEEPEST` per unit of log odds.
    """
    order = np.argsort(scores, kind="stable")
    scores, hits = np.clip(scores[order], -60.0, 60.0), hits[order].astype(np.float64)
    bins = list(np.array_split(np.arange(len(scores)), max(1, min(MAX_KNOTS, len(scores) // 5))))
    groups = [bins[0]]
    for part in bins[1:]:
        if scores[part].mean() - scores[groups[-1]].mean() < NEAR:
            groups[-1] = np.concatenate([groups[-1], part])
        else:
            groups.append(part)
    x = np.array([scores[part].mean() for part in groups])
    rows = np.array([float(len(part)) for part in groups])
    y = IsotonicRegression().fit(x, [hits[part].mean() for part in groups], rows).predict(x)
    # A finite number of rows cannot prove a probability of 0 or 1.
    y = np.clip(y, 0.25 / len(scores), 1 - 0.25 / len(scores))
    for index in range(1, len(x)):
        y[index] = min(y[index], y[index - 1] + STEEPEST * (x[index] - x[index - 1]))
    return Knots(tuple(map(float, x)), tuple(map(float, y)))


def matching_temperature(members: Floats, temperature: float, independent: bool) -> float:
    """Return the temperature of an ensemble's mean that stands for `temperature` on each of its members.

    `members` are probabilities (members, rows, units) of rows that no member was trained on; labels are not needed.
    The mean of the members' log probabilities of what is true has one expectation, whether the members' calibrated
    probabilities are believed or the ensemble's: the temperature that makes these equal is returned. Where every
    temperature does, as of members that all say the same of all labels, it is `temperature` itself.
    """
    members = np.asarray(members, np.float64)
    if independent:
        members = np.concatenate([1.0 - members, members], axis=2)
    logs = np.log(np.maximum(members, SMALLEST))
    expected = float((softmax(logs / temperature, axis=2) * logs).sum(axis=2).mean())
    together, mean_log = np.log(np.maximum(members.mean(axis=0), SMALLEST)), logs.mean(axis=0)

    def excess(cold: float) -> float:
        shares = np.exp(log_softmax(together * np.exp(cold), axis=1))
        return float((shares * mean_log).sum(axis=1).mean()) - expected

    low, high = -np.log(HOTTEST), -np.log(COLDEST)
    if excess(high) - excess(low) < FLAT:
        return temperature
    return float(np.exp(-_root(excess, low, high)))


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of an increasing function between `low` and `high`, or the nearer end."""
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return 0.5 * (low + high)
