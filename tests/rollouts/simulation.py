"""A rollout in fast motion: two versions with known rates of errors and accuracy, looked at many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fitserve.rollouts.always_valid import Stream
from fitserve.rollouts.guards import DEFAULTS, LATENCY_EDGES, ArmCounts, Figure, LiveErrors, StepCounts, measure

SHARES = (0.01, 0.1, 0.5, 1.0)
GUARDS = {name: limit for name, limit in DEFAULTS.items() if name != "disagreement"}


@dataclass(frozen=True)
class Truth:
    """What a version does: its share of errors, its accuracy, its median seconds, its share of the first class."""

    errors: float = 0.02
    accuracy: float = 0.9
    seconds: float = 0.002
    first_class: float = 0.7


@dataclass(frozen=True)
class Outcome:
    """How a simulated rollout ended: the figure that took it back, and the requests that it needed."""

    breach: Figure | None
    requests: int
    new_requests: int


def _serve(random: np.random.Generator, arm: ArmCounts, truth: Truth, requests: int) -> None:
    arm.requests += requests
    arm.errors += int(random.binomial(requests, truth.errors))
    bins = np.searchsorted(LATENCY_EDGES, random.lognormal(np.log(truth.seconds), 0.6, requests))
    counted = np.bincount(bins, minlength=len(arm.latency))
    arm.latency = [int(a + b) for a, b in zip(arm.latency, counted, strict=True)]
    first = int(random.binomial(requests, truth.first_class))
    arm.add_shares("y", "classes", [float(first), float(requests - first), 0.0, 0.0])


def simulate(
    base: Truth,
    new: Truth,
    seed: int,
    *,
    requests: int = 40_000,
    looks: int = 25,
    feedback: float = 0.3,
    guards: Mapping[str, float] = GUARDS,
) -> Outcome:
    """Return how a rollout ends. Each step has so many requests and looks; a share of requests gets ground truth."""
    random = np.random.default_rng(seed)
    counts: dict[int, StepCounts] = {}
    live: dict[int, list[LiveErrors]] = {}
    total = total_new = 0
    for step, share in enumerate(SHARES):
        own = counts[step] = StepCounts()
        wrong = {"base": [0, 0], "new": [0, 0]}
        for part in random.multinomial(requests, [1 / looks] * looks):
            more_new = int(random.binomial(part, share))
            total, total_new = total + int(part), total_new + more_new
            for name, arm, truth, more in (("base", own.base, base, part - more_new), ("new", own.new, new, more_new)):
                _serve(random, arm, truth, int(more))
                known = int(random.binomial(more, feedback))
                wrong[name][0] += known
                wrong[name][1] += int(random.binomial(known, 1 - truth.accuracy))
            live[step] = [LiveErrors("y", Stream(*wrong["base"]), Stream(*wrong["new"]))]
            for figure in measure(SHARES, step, guards, counts, live):
                if figure.breached:
                    return Outcome(figure, total, total_new)
    return Outcome(None, total, total_new)
