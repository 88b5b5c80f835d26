"""Guards raise few false alarms however often they are checked, and detect what they should."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from fitserve.rollouts.always_valid import (
    RunningSums,
    Stream,
    asymptotic_difference,
    difference_interval,
    index_bounds,
    mean_interval,
    quantile_bounds,
)
from fitserve.rollouts.guards import ALPHA
from tests.rollouts.simulation import Outcome, Truth, simulate

SAME = Truth()
WORSE = {
    "errors": Truth(errors=SAME.errors + 0.02),
    "live_accuracy": Truth(accuracy=SAME.accuracy - 0.05),
    "p99_ratio": Truth(seconds=SAME.seconds * 2.5),
    "prediction_drift": Truth(first_class=0.35),
}


def _check_found(guard: str, times: int) -> None:
    outcomes = [simulate(SAME, WORSE[guard], seed) for seed in range(times)]
    found = [outcome for outcome in outcomes if outcome.breach is not None and outcome.breach.guard == guard]
    print(f"{guard}: {len(found)} of {times} taken back, {_needed(found)}")
    assert len(found) == times


def _needed(outcomes: Sequence[Outcome]) -> str:
    median = statistics.median(outcome.requests for outcome in outcomes)
    of_new = statistics.median(outcome.new_requests for outcome in outcomes)
    return f"median {median:,.0f} requests, {of_new:,.0f} of them to the new version"


@pytest.mark.parametrize("guard", WORSE)
def test_a_worse_version_is_taken_back(guard: str) -> None:
    _check_found(guard, 3)


@pytest.mark.long
@pytest.mark.parametrize("guard", WORSE)
def test_a_worse_version_is_taken_back_every_time(guard: str) -> None:
    _check_found(guard, 50)


def test_an_equal_version_goes_through() -> None:
    assert [simulate(SAME, SAME, seed, looks=8).breach for seed in range(6)] == [None] * 6


@pytest.mark.long
def test_few_of_a_thousand_equal_versions_are_taken_back() -> None:
    """With limits of zero, where a false alarm is likeliest."""
    strict = {"errors": 0.0, "p99_ratio": 1.0, "prediction_drift": 0.0, "live_accuracy": 0.0}
    for guards in (None, strict):
        more = {} if guards is None else {"guards": guards}
        outcomes = [simulate(SAME, SAME, seed, requests=5_000, looks=20, **more) for seed in range(1_000)]
        taken = sum(outcome.breach is not None for outcome in outcomes)
        print(f"{guards or 'default limits'}: {taken} of 1,000 taken back")
        assert taken <= 1_000 * ALPHA


def test_an_interval_that_is_looked_at_often_covers() -> None:
    """An interval of fixed rows, looked at as often, misses in far more than its 5% of streams."""
    random = np.random.default_rng(0)
    looks = np.unique(np.geomspace(20, 2_000, 25).astype(int))
    missed = fixed = 0
    for _ in range(150):
        totals = np.cumsum(random.random(2_000) < 0.3)[looks - 1]
        intervals = [mean_interval(Stream(n, int(s)), 0.05) for n, s in zip(looks, totals, strict=True)]
        missed += any(not low <= 0.3 <= high for low, high in intervals)
        means = totals / looks
        fixed += bool((np.abs(means - 0.3) > 1.96 * np.sqrt(means * (1 - means) / looks)).any())
    assert missed <= 0.05 * 150
    assert fixed > 0.15 * 150


def test_intervals_of_differences_and_quantiles() -> None:
    low, high = difference_interval(Stream(20_000, 1_000), Stream(20_000, 200), 0.05)
    assert 0.03 < low < 0.04 < high < 0.05
    assert difference_interval(Stream(), Stream(10, 1), 0.05) == (-1.0, 1.0)
    assert difference_interval(Stream(5, 0), Stream(5, 5), 0.05)[0] == -1.0
    edges = [1.0, 2.0, 4.0, 8.0]
    assert quantile_bounds(edges, [0, 9_000, 980, 20, 0], 0.99, 0.05) == (2.0, 4.0, 4.0)
    assert quantile_bounds(edges, [0, 0, 0, 0, 10], 0.99, 0.05) == (8.0, None, float("inf"))
    assert quantile_bounds(edges, [0, 5, 0, 0, 0], 0.99, 0.05)[2] == float("inf")
    assert quantile_bounds(edges, [0] * 5, 0.99, 0.05) == (0.0, None, float("inf"))
    index, least = index_bounds([700, 300], [300, 700], 0.05)
    assert index is not None
    assert 0.3 < least < index
    assert index_bounds([0, 0], [3, 4], 0.05) == (None, 0.0)
    bounds = asymptotic_difference(RunningSums(2_000, 4_000, 10_000), RunningSums(2_000, 2_000, 4_000), 0.05)
    assert bounds is not None
    assert bounds[0] < 1.0 < bounds[1]
    assert bounds[1] - bounds[0] < 0.5
    assert asymptotic_difference(RunningSums(5, 5, 9), RunningSums(900, 5, 9), 0.05) is None
