"""Always-valid inference: intervals that hold at every moment at once, so that looking often raises no false alarms.

A stream of values in [0, 1] has the mean p, the running average of its conditional means. With S the sum of the first
n values, the beta-binomial mixture (Howard, Ramdas, McAuliffe and Sekhon, Time-uniform, nonparametric, nonasymptotic
confidence sequences, Annals of Statistics 49(2), 2021, proposition 7; for coin flips Robbins 1970)

    M_n(p) = B(a + S, b + n - S) / (B(a, b) p^S (1 - p)^(n - S)),    a = b = 1/2

is bounded by a nonnegative martingale that starts at 1, so that M_n(p) >= 1 / alpha at any n with probability at most
alpha (Ville). {p: M_n(p) < 1 / alpha} is therefore a confidence sequence. It depends on n and S alone: counts of many
processes are added before it is asked. Two independent streams multiply, and the smallest product over all means that
differ by d bounds the difference in the same way: {d: min over p of M_n(p + d) M_m(p) < 1 / alpha}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_HALVINGS = 32  # of an interval, whose ends are rounded outwards
_EDGE = 1e-12
_LOG_PRIOR = math.lgamma(0.5) * 2 - math.lgamma(1.0)
_PLANNED_ROWS = 2_000  # at which the asymptotic interval is narrowest


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of values in [0, 1]: how many, and their sum."""

    n: float = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def __add__(self, other: Stream) -> Stream:
        return Stream(self.n + other.n, self.total + other.total)


def _log_mixture(stream: Stream) -> float:
    """Return the logarithm of the mixture's numerator."""
    total = min(max(stream.total, 0.0), stream.n)
    return math.lgamma(0.5 + total) + math.lgamma(0.5 + stream.n - total) - math.lgamma(1.0 + stream.n) - _LOG_PRIOR


def _log_likelihood(stream: Stream, p: float) -> float:
    total = min(max(stream.total, 0.0), stream.n)
    likely = total * math.log(max(p, _EDGE)) if total else 0.0
    return likely + ((stream.n - total) * math.log(max(1.0 - p, _EDGE)) if total < stream.n else 0.0)


def log_evidence(stream: Stream, p: float) -> float:
    """Return log M_n(p): evidence against the mean p."""
    return _log_mixture(stream) - _log_likelihood(stream, p)


def mean_interval(stream: Stream, alpha: float) -> tuple[float, float]:
    """Return the confidence sequence of a mean, which holds at all times at once with probability 1 - alpha."""
    if stream.mean is None:
        return 0.0, 1.0
    mixture, limit = _log_mixture(stream), -math.log(alpha)

    def accepts(p: float) -> bool:
        return mixture - _log_likelihood(stream, p) < limit

    return _end(accepts, stream.mean, 0.0), _end(accepts, stream.mean, 1.0)


def log_evidence_of_difference(new: Stream, base: Stream, difference: float) -> float:
    """Return the logarithm of the evidence against `difference` = mean of `new` - mean of `base`."""
    return _log_mixture(new) + _log_mixture(base) - _most_likely(new, base, difference)


def _most_likely(new: Stream, base: Stream, difference: float) -> float:
    """Return the largest log likelihood of two streams whose means differ so much."""
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    hits_new, hits_base = new.total, base.total
    misses_new, misses_base = new.n - hits_new, base.n - hits_base
    for _ in range(2 * _HALVINGS):  # it is concave in p, the mean of `base`: its slope falls
        p = (low + high) / 2
        q = p + difference
        rise = hits_new / max(q, _EDGE) + hits_base / max(p, _EDGE)
        if rise > misses_new / max(1.0 - q, _EDGE) + misses_base / max(1.0 - p, _EDGE):
            low = p
        else:
            high = p
        if high - low < 1e-9 * high:
            break
    p = (low + high) / 2
    return _log_likelihood(new, p + difference) + _log_likelihood(base, p)


def difference_interval(new: Stream, base: Stream, alpha: float) -> tuple[float, float]:
    """Return the confidence sequence of mean(new) - mean(base)."""
    if new.mean is None or base.mean is None:
        return -1.0, 1.0
    mixtures, limit = _log_mixture(new) + _log_mixture(base), -math.log(alpha)

    def accepts(difference: float) -> bool:
        return mixtures - _most_likely(new, base, difference) < limit

    middle = new.mean - base.mean
    return _end(accepts, middle, -1.0), _end(accepts, middle, 1.0)


def _end(accepts: Callable[[float], bool], inside: float, outermost: float) -> float:
    """Return the end of an interval between a value inside of it and the outermost one."""
    if accepts(outermost):
        return outermost
    for _ in range(_HALVINGS):
        middle = (inside + outermost) / 2
        if accepts(middle):
            inside = middle
        else:
            outermost = middle
    return outermost


def quantile_bounds(
    edges: Sequence[float], counts: Sequence[float], q: float, alpha: float
) -> tuple[float, float | None, float]:
    """Return lower bound, estimate and upper bound of a quantile of counts by bin, at all times at once.

    `counts` has a bin below each edge and one above the last. Values above the true quantile are a stream whose mean
    is at most 1 - q (Howard and Ramdas, Sequential estimation of quantiles, Bernoulli 28(3), 2022): an edge with
    certainly more values above it is too low, one with certainly fewer too high. No bound: 0, or infinity.
    """
    rows = sum(counts)
    low, estimate, high = 0.0, None, math.inf
    above = rows
    limit = -math.log(alpha)
    for edge, count in zip(edges, counts, strict=False):
        above -= count
        if not rows:
            break
        known = log_evidence(Stream(rows, above), 1.0 - q) >= limit
        if above / rows > 1.0 - q:
            low = edge if known else low
        else:
            estimate = edge if estimate is None else estimate
            if known and high == math.inf:
                high = edge
    return low, estimate, high


def index_bounds(new: Sequence[float], base: Sequence[float], alpha: float) -> tuple[float | None, float]:
    """Return the population stability index of two streams of shares by bin, and its lower bound at all times.

    Each bin's share has its own confidence sequence, alpha shared by all; the index is smallest where the shares are
    as near to each other as these allow.
    """
    rows_new, rows_base = sum(new), sum(base)
    bins = [(one, other) for one, other in zip(new, base, strict=True) if one or other]
    if not rows_new or not rows_base or not bins:
        return None, 0.0
    each = alpha / (2 * len(bins))
    index = least = 0.0
    for one, other in bins:
        a, b = max(one / rows_new, 0.5 / rows_new), max(other / rows_base, 0.5 / rows_base)
        index += (a - b) * math.log(a / b)
        low_a, high_a = mean_interval(Stream(rows_new, one), each)
        low_b, high_b = mean_interval(Stream(rows_base, other), each)
        if low_a > high_b:
            least += (low_a - high_b) * math.log(low_a / max(high_b, _EDGE))
        elif low_b > high_a:
            least += (low_b - high_a) * math.log(low_b / max(high_a, _EDGE))
    return index, least


@dataclass(frozen=True, slots=True)
class Moments:
    """Values without bounds: how many, their sum, and the sum of their squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    @property
    def variance(self) -> float:
        return max(0.0, self.squares / self.n - (self.total / self.n) ** 2) if self.n else 0.0


def asymptotic_difference(new: Moments, base: Moments, alpha: float) -> tuple[float, float] | None:
    """Return the asymptotic confidence sequence of mean(new) - mean(base) for values without bounds.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and asymptotic confidence
    sequences, Annals of Statistics 52(6), 2024, theorem 2.2: the normal mixture around the estimated variance.
    None of fewer than 30 values on a side.
    """
    if new.mean is None or base.mean is None or min(new.n, base.n) < 30:
        return None
    rows = new.n + base.n
    surprise = -2 * math.log(alpha)
    rho = math.sqrt((surprise + math.log(surprise + 1)) / _PLANNED_ROWS)
    spread = new.variance / new.n + base.variance / base.n
    scaled = rows * rho * rho
    half = math.sqrt(spread * 2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / alpha))
    middle = new.mean - base.mean
    return middle - half, middle + half
