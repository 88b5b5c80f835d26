"""Points for a search's trials by a Gaussian process: those with the highest expected improvement over the best.

Optuna's own sampler of this kind needs PyTorch, which is larger than everything else that a worker installs;
scikit-learn's regressor does the same arithmetic.

A point becomes a vector: for a number, its position between the ends of its range (on a logarithmic scale if the range
has one); for a choice, one number for each option; parts that do not exist at the point are 0. Results are ranked and
made normal, which bounds the influence of a diverged trial. The kernel is Matern 5/2 with one length for each range.
The expected improvement (Jones, Schonlau and Welch 1998) is maximised over random points and neighbours of the best
trials. Points that are still waiting for a result count with their expected result.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from fitserve.spec.search import Choice, NumberRange, Point, Range, drawn

FIRST = 10  # points drawn at random before the first model
CANDIDATES = 256  # points that are compared
MAX_RESULTS = 150  # results that are modelled: the best, and the latest
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Model:
    """The results that are modelled, by their places; their points as vectors, their scores, and the fitted process."""

    known: list[int]
    x: Vector
    y: Vector
    process: GaussianProcessRegressor


class GaussianProcess:
    """Proposes points from the results of those before; the smallest result is best."""

    def __init__(self, ranges: Mapping[str, Range], seed: int) -> None:
        self._ranges, self._generator = ranges, random.Random(seed)
        self._points: list[Point] = []
        self._results: list[float] = []
        self._model: _Model | None = None  # fitted to the results so far

    def tell(self, point: Point, result: float | None) -> None:
        """Add a result; None is a failed trial's, and counts as the worst."""
        self._points.append(point)
        self._results.append(math.inf if result is None else result)
        self._model = None

    def propose(self, waiting: Sequence[Point]) -> Point:
        """Return a point, beside those that are `waiting` for their results."""
        if len(self._points) < FIRST:
            return drawn(self._ranges, self._generator)
        with threadpool_limits(1):  # matrices this small take longer on several threads, and spin beside other work
            return self._most_promising(waiting)

    def _most_promising(self, waiting: Sequence[Point]) -> Point:
        if self._model is None:
            known = self._modelled()
            x = np.stack([self._vector(self._points[index]) for index in known])
            y = _normal_scores([self._results[index] for index in known])
            self._model = _Model(known, x, y, _fitted(x, y))
        model = self._model
        process, best = model.process, float(model.y.min())
        if waiting:
            pending = np.stack([self._vector(point) for point in waiting])
            expected = process.predict(pending)
            again = GaussianProcessRegressor(process.kernel_, optimizer=None)
            process = again.fit(np.concatenate([model.x, pending]), np.concatenate([model.y, expected]))
            best = min(best, float(expected.min()))
        candidates = self._candidates(model.known)
        vectors = np.stack([self._vector(point) for point in candidates])
        return candidates[int(np.argmax(_expected_improvement(process, vectors, best)))]

    def _modelled(self) -> list[int]:
        places = range(len(self._points))
        if len(self._points) <= MAX_RESULTS:
            return list(places)
        best = sorted(places, key=lambda index: (self._results[index], index))[: MAX_RESULTS // 2]
        last = [index for index in places[-MAX_RESULTS:] if index not in set(best)]
        return sorted([*best, *last[-(MAX_RESULTS - len(best)) :]])

    def _candidates(self, known: Sequence[int]) -> list[Point]:
        """Return random points, half of them with most values of one of the best trials."""
        points = [drawn(self._ranges, self._generator) for _ in range(CANDIDATES)]
        best = sorted(known, key=lambda index: (self._results[index], index))[:5]
        for index in range(CANDIDATES // 2):
            points[index] = self._near(self._points[self._generator.choice(best)])
        return points

    def _near(self, point: Point) -> Point:
        """Return a neighbour of a point: one or two of its ranges drawn again, or numbers close to its own."""
        ranges = _chosen(self._ranges, point)
        near = dict(point)
        numbers = [pointer for pointer, one in ranges.items() if isinstance(one, NumberRange)]
        if numbers and self._generator.random() < 0.7:
            for pointer in numbers:
                near[pointer] = _beside(ranges[pointer], near[pointer], self._generator)
            return near
        fresh = drawn(self._ranges, self._generator)
        pointer = self._generator.choice(list(self._ranges))
        return {**_without(self._ranges[pointer], pointer, near), **_part(self._ranges[pointer], pointer, fresh)}

    def _vector(self, point: Point) -> Vector:
        return np.asarray(list(_numbers(self._ranges, point)), np.float64)


def _numbers(ranges: Mapping[str, Range], point: Point) -> Any:
    for pointer, one in ranges.items():
        at = point.get(pointer)
        if isinstance(one, Choice):
            yield from (float(at == index) for index in range(len(one.options)))
            for inside in one.inside:
                yield from _numbers(inside, point)
        else:
            yield 0.0 if at is None else _place(one, float(at))


def _place(one: NumberRange, value: float) -> float:
    low, high = float(one.low), float(one.high)
    if one.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _beside(one: Range, value: float, generator: random.Random) -> int | float:
    assert isinstance(one, NumberRange)
    place = min(1.0, max(0.0, _place(one, float(value)) + generator.gauss(0.0, 0.1)))
    low, high = float(one.low), float(one.high)
    moved = math.exp(math.log(low) + place * math.log(high / low)) if one.log else low + place * (high - low)
    if (count := one.count()) is not None and not one.log:
        return one.value(min(count - 1, max(0, round((moved - low) / float(one.step or 1)))))
    moved = min(high, max(low, moved))
    return round(moved) if one.whole else moved


def _chosen(ranges: Mapping[str, Range], point: Point) -> dict[str, Range]:
    """Return the ranges that exist at a point."""
    chosen: dict[str, Range] = {}
    for pointer, one in ranges.items():
        chosen[pointer] = one
        if isinstance(one, Choice):
            chosen |= _chosen(one.inside[int(point[pointer])], point)
    return chosen


def _part(one: Range, pointer: str, point: Point) -> Point:
    """Return the part of a vector for one range and those nested in it."""
    own = _chosen({pointer: one}, point)
    return {name: value for name, value in point.items() if name in own}


def _without(one: Range, pointer: str, point: Point) -> Point:
    own = _part(one, pointer, point)
    return {name: value for name, value in point.items() if name not in own}


def _normal_scores(results: Sequence[float]) -> Vector:
    """Return each result's rank as a quantile of the normal distribution; equal ones have the mean of their ranks."""
    return np.asarray(norm.ppf((rankdata(results) - 0.5) / len(results)), np.float64)


def _fitted(x: Vector, y: Vector) -> GaussianProcessRegressor:
    """Return a process whose lengths and noise are of the highest likelihood, starting from equal ones."""
    kernel = Matern(np.ones(x.shape[1]), (0.1, 5.0), nu=2.5) + WhiteKernel(0.05, (1e-3, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at a bound: its range tells nothing
        return GaussianProcessRegressor(kernel).fit(x, y)


def _expected_improvement(process: GaussianProcessRegressor, at: Vector, best: float) -> Vector:
    """Return by how much less than `best` a result is to be expected at each point, on average over what it may be."""
    mean, deviation = process.predict(at, return_std=True)
    noise = float(process.kernel_.k2.noise_level)  # noise of a single result, not of the expectation
    deviation = np.sqrt(np.maximum(1e-12, deviation**2 - noise))
    ahead = (best - mean) / deviation
    return np.asarray(deviation * (ahead * norm.cdf(ahead) + norm.pdf(ahead)))
