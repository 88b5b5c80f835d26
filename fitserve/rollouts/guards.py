"""The guards of a rollout: always-valid tests that compare two versions, and the counts that they need.

Each step has tests of its own, since traffic and error rates move with time and the two versions get them at the same
time only within a step. The error rate ALPHA is shared by all guards and steps of a rollout: a version that is as good
as the one before is taken back with at most this probability, however often it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fitserve.rollouts.always_valid import Stream, difference_interval, index_bounds, mean_interval, quantile_bounds

ALPHA = 0.05
DEFAULTS: dict[str, float] = {
    "errors": 0.005,  # increase in the share of refused or failed requests
    "p99_ratio": 1.5,  # the 99th percentile of the response time, as a multiple
    "prediction_drift": 0.25,  # population stability index of the two versions' answers
    "disagreement": 0.1,  # share of the rows for which the shadow predicts something else
    "live_accuracy": 0.01,  # accuracy lost
}
SHADOWED = ("errors", "prediction_drift", "disagreement")  # measured while the new version only shadows
ALONE = ("errors", "p99_ratio")  # measured once it answers all requests, compared with the previous step
LATENCY_EDGES = tuple(5e-5 * 2 ** (place / 4) for place in range(84))  # seconds, up to 90
P99 = 0.99


@dataclass(slots=True)
class ArmCounts:
    """Requests of one version. In `outputs` each request counts once, divided among the bins of its rows."""

    requests: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES) + 1))
    outputs: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, other: ArmCounts) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.latency = [a + b for a, b in zip(self.latency, other.latency, strict=True)]
        for name, parts in other.outputs.items():
            for part, shares in parts.items():
                self.add_shares(name, part, shares)

    def add_shares(self, name: str, part: str, shares: Sequence[float]) -> None:
        known = self.outputs.setdefault(name, {}).get(part)
        same = known is not None and len(known) == len(shares)
        self.outputs[name][part] = [a + b for a, b in zip(known or (), shares, strict=True)] if same else list(shares)

    @property
    def errors_of_all(self) -> Stream:
        return Stream(self.requests, self.errors)


@dataclass(slots=True)
class StepCounts:
    """What was counted in one step, by one process or by all. `scales` divide a regression's errors."""

    base: ArmCounts = field(default_factory=ArmCounts)
    new: ArmCounts = field(default_factory=ArmCounts)
    compared: int = 0  # requests that both versions answered
    disagreeing: float = 0.0  # over these requests, the sum of the share of rows answered differently
    scales: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, counts: Iterable[Mapping[str, Any]]) -> StepCounts:
        """Return the sum of what processes have written."""
        whole = cls()
        for one in counts:
            whole.base.add(ArmCounts(**one["base"]))
            whole.new.add(ArmCounts(**one["new"]))
            whole.compared += one["compared"]
            whole.disagreeing += one["disagreeing"]
            whole.scales |= one["scales"]
        return whole

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LiveErrors:
    """Ground truth of one output in one step: errors from 0 to 1 of predictions by each version."""

    output: str
    base: Stream
    new: Stream


@dataclass(frozen=True, slots=True)
class Figure:
    """A guard at one moment: `value` with bounds that hold at all times. It is breached where `low` is above `limit`.

    `base` and `new` are each version's own figure. All are None where there are too few requests.
    """

    guard: str
    limit: float
    base_rows: float
    new_rows: float
    base: float | None
    new: float | None
    value: float | None
    low: float | None
    high: float | None
    output: str | None = None

    @property
    def breached(self) -> bool:
        return self.low is not None and self.low > self.limit

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "breached": self.breached}

    @property
    def sentence(self) -> str:
        """Why it was breached, with its figures."""
        unit = _UNITS[self.guard]
        shown = [unit.format(value) for value in (self.value, self.low, self.limit)]
        rows = f"{self.new_rows:,.0f} requests of the new version, {self.base_rows:,.0f} of the one before"
        of = f" of {self.output}" if self.output else ""
        return f"{_TITLES[self.guard]}{of}: {shown[0]}, certainly more than {shown[1]}; at most {shown[2]} ({rows})."


_TITLES = {
    "errors": "More requests fail",
    "p99_ratio": "The slowest hundredth of responses takes longer",
    "prediction_drift": "The answers are distributed otherwise",
    "disagreement": "Rows are answered otherwise",
    "live_accuracy": "Live accuracy is lost",
}
_UNITS = {
    "errors": "{:.2%}",
    "p99_ratio": "{:.2f} times",
    "prediction_drift": "PSI {:.3f}",
    "disagreement": "{:.2%}",
    "live_accuracy": "{:.2%}",
}


def guards_of_step(share: float, guards: Mapping[str, float]) -> list[str]:
    """Return the guards that are measured at a share of the traffic from 0 to 1."""
    if share == 0:
        return [name for name in SHADOWED if name in guards]
    if share == 1:
        return [name for name in ALONE if name in guards]
    return [name for name in guards if name != "disagreement"]


def alpha_of(shares: Sequence[float], guards: Mapping[str, float]) -> float:
    """Return the error rate of one guard in one step."""
    tests = sum(len(guards_of_step(share, guards)) for share in shares)
    return ALPHA / max(1, tests)


def measure(
    shares: Sequence[float],
    step: int,
    guards: Mapping[str, float],
    counts: Mapping[int, StepCounts],
    live: Mapping[int, Sequence[LiveErrors]],
) -> list[Figure]:
    """Return the figures of one step's guards."""
    alpha, share = alpha_of(shares, guards), shares[step]
    own = counts.get(step, StepCounts())
    base = own.base
    if share == 1 and step > 0 and shares[step - 1] > 0:
        base = counts.get(step - 1, StepCounts()).base
    figures = []
    for guard in guards_of_step(share, guards):
        limit = guards[guard]
        if guard == "errors":
            figures.append(_errors(own.new, base, limit, alpha, share))
        elif guard == "p99_ratio":
            figures.append(_p99_ratio(own.new, base, limit, alpha))
        elif guard == "prediction_drift":
            figures.append(_prediction_drift(own.new, base, limit, alpha))
        elif guard == "disagreement":
            figures.append(_disagreement(own, limit, alpha))
        else:
            figures.append(_live_accuracy(live.get(step, ()), limit, alpha, share))
    return figures


def _errors(new: ArmCounts, base: ArmCounts, limit: float, alpha: float, share: float) -> Figure:
    return _compared("errors", new.errors_of_all, base.errors_of_all, limit, alpha, share)


def _compared(
    guard: str,
    new: Stream,
    base: Stream,
    limit: float,
    alpha: float,
    share: float,
    output: str | None = None,
    turned: bool = False,
) -> Figure:
    """Compare two streams of failures; `turned`: each version's figure is the share without one."""
    if new.mean is None or base.mean is None:
        return Figure(guard, limit, base.n, new.n, None, None, None, None, None, output)
    low, high = difference_interval(new, base, alpha, share if 0 < share < 1 else 0.5)
    own = (1 - base.mean, 1 - new.mean) if turned else (base.mean, new.mean)
    return Figure(guard, limit, base.n, new.n, *own, new.mean - base.mean, low, high, output)


def _p99_ratio(new: ArmCounts, base: ArmCounts, limit: float, alpha: float) -> Figure:
    rows_new, rows_base = sum(new.latency), sum(base.latency)
    low_new, at_new, high_new = quantile_bounds(LATENCY_EDGES, new.latency, P99, alpha / 2)
    low_base, at_base, high_base = quantile_bounds(LATENCY_EDGES, base.latency, P99, alpha / 2)
    value = at_new / at_base if at_new is not None and at_base else None
    low = low_new / high_base if value is not None else None
    high = high_new / low_base if value is not None and low_base and math.isfinite(high_new) else None
    return Figure("p99_ratio", limit, rows_base, rows_new, at_base, at_new, value, low, high)


def _prediction_drift(new: ArmCounts, base: ArmCounts, limit: float, alpha: float) -> Figure:
    pairs = [
        (name, part, shares, base.outputs[name][part])
        for name, parts in new.outputs.items()
        for part, shares in parts.items()
        if len(base.outputs.get(name, {}).get(part, ())) == len(shares)
    ]
    figures = [Figure("prediction_drift", limit, base.requests, new.requests, None, None, None, None, None)]
    for name, part, shares, others in pairs:
        index, least = index_bounds(shares, others, alpha / len(pairs))
        named = f"{name} ({part})"
        figure = Figure("prediction_drift", limit, sum(others), sum(shares), None, None, index, least, None, named)
        figures.append(figure)
    return max(figures, key=lambda one: (-1.0, 0.0) if one.low is None else (one.low, one.value or 0.0))


def _disagreement(counts: StepCounts, limit: float, alpha: float) -> Figure:
    stream = Stream(counts.compared, counts.disagreeing)
    if stream.mean is None:
        return Figure("disagreement", limit, 0, 0, None, None, None, None, None)
    low, high = mean_interval(stream, alpha)
    return Figure("disagreement", limit, stream.n, stream.n, None, None, stream.mean, low, high)


def _live_accuracy(live: Sequence[LiveErrors], limit: float, alpha: float, share: float) -> Figure:
    each = alpha / max(1, len(live))
    figures = [Figure("live_accuracy", limit, 0, 0, None, None, None, None, None)]
    figures += [_compared("live_accuracy", one.new, one.base, limit, each, share, one.output, True) for one in live]
    return max(figures, key=lambda one: -2.0 if one.low is None else one.low)
