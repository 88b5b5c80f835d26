"""Always-valid inference: intervals that hold at every moment at once, so that looking often raises no false alarms.

A stream of values in [0, 1] has the mean p, the running average of its conditional means. With S the sum of the first
n values, the beta-binomial mixture (Howard, Ramdas, McAuliffe and Sekhon, Time-uniform, nonparametric, nonasymptotic
confidence sequences, Annals of Statistics 49(2), 2021, proposition 7; for coin flips Robbins 1970)

    B_n(p) = B(a + S, b + n - S) / (B(a, b) p^S (1 - p)^(n - S)),    a = b = 1/2

and each tilt (section 3 there: the cumulant of a Bernoulli variable bounds that of a value in [0, 1])

    T_n(p, t) = exp(t S - n log(1 + p (e^t - 1)))

are bounded by nonnegative martingales that start at 1. So is every average of them,

    M_n(p) = (B_n(p) + average over t of T_n(p, t)) / 2,

so that M_n(p) >= 1 / alpha at any n with probability at most alpha (Ville), and {p: M_n(p) < 1 / alpha} is a confidence
sequence. It depends on n and S alone: counts of many processes are added before it is asked.

Two independent streams multiply. Their tilts are opposed, each divided by its stream's share of the values, so that one
tilt measures the difference of the means alone: a mixture over one number finds a difference sooner than the product of
two mixtures, which learns both means. That product bounds both means, and with them the variance that a tilt needs. The
smallest evidence against all means that differ by d is then evidence against d. Shares that are not the true ones make
the interval wider, and not wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

_EDGE = 1e-12
_CLOSE = 1e-3  # share of an interval's half-width by which its ends may be rounded outwards
_LOG_PRIOR = math.lgamma(0.5) * 2 - math.lgamma(1.0)
_PLANNED_ROWS = 2_000  # at which the asymptotic interval is narrowest

# Differences in standard deviations of one value that the tilts are best for: found after some 64 to a million values.
_EFFECTS = [sign * 2.0**-place for place in range(1, 9) for sign in (1, -1)]
_MAX_TILT = 30.0
_LEAST_DEVIATION = 1e-6
_LEAST_EVIDENCE = 12.0  # added to evidence to keep it positive: a mixture costs about half of this
_MUCH = 40.0  # log evidence beyond every requested limit
_MEANS = np.linspace(0.0, 1.0, 25)  # grid between the smallest and largest possible mean


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
    """Return the logarithm of the beta-binomial mixture's numerator."""
    total = min(max(stream.total, 0.0), stream.n)
    return math.lgamma(0.5 + total) + math.lgamma(0.5 + stream.n - total) - math.lgamma(1.0 + stream.n) - _LOG_PRIOR


def _log_likelihood(stream: Stream, p: float) -> float:
    total = min(max(stream.total, 0.0), stream.n)
    likely = total * math.log(max(p, _EDGE)) if total else 0.0
    return likely + ((stream.n - total) * math.log(max(1.0 - p, _EDGE)) if total < stream.n else 0.0)


def _log_tilts(arms: Sequence[tuple[Stream, np.ndarray, float]]) -> np.ndarray:
    """Return the logarithm of the tilts' average at each candidate.

    An arm is a stream, its candidate means (k,), and its weight: a tilt is so many times the common one.
    """
    variance = sum(abs(weight) * means * (1.0 - means) for _, means, weight in arms)
    common = np.array(_EFFECTS)[:, None] / np.maximum(np.sqrt(variance), _LEAST_DEVIATION)
    exponents = np.zeros_like(common)
    for stream, means, weight in arms:
        tilts = np.clip(common * weight, -_MAX_TILT, _MAX_TILT)
        exponents += tilts * stream.total - stream.n * np.log1p(means * np.expm1(tilts))
    highest = exponents.max(axis=0)
    return np.asarray(highest + np.log(np.exp(exponents - highest).mean(axis=0)))


@lru_cache(4096)
def log_evidence(stream: Stream, p: float) -> float:
    """Return log M_n(p): evidence against the mean p."""
    deviation = max(math.sqrt(p * (1.0 - p)), _LEAST_DEVIATION)
    tilts = [min(max(effect / deviation, -_MAX_TILT), _MAX_TILT) for effect in _EFFECTS]
    exponents = [tilt * stream.total - stream.n * math.log1p(p * math.expm1(tilt)) for tilt in tilts]
    learned = _log_mixture(stream) - _log_likelihood(stream, p)
    highest = max(learned, *exponents)
    tilted = sum(math.exp(one - highest) for one in exponents) / len(exponents)
    return highest + math.log((math.exp(learned - highest) + tilted) / 2)


@lru_cache(4096)
def mean_interval(stream: Stream, alpha: float) -> tuple[float, float]:
    """Return the confidence sequence of a mean, which holds at all times at once with probability 1 - alpha."""
    if stream.mean is None:
        return 0.0, 1.0
    limit, mean = -math.log(alpha), stream.mean
    reach = _reach(limit) * _deviation(stream)
    low, high = (_end(partial(log_evidence, stream), limit, mean, end, reach) for end in (0.0, 1.0))
    return low, high


def _reach(limit: float) -> float:
    """Return about how many standard deviations the end of an interval is from its middle."""
    return math.sqrt(2 * limit + 5)


def _deviation(stream: Stream) -> float:
    """Return the standard deviation of a mean, after one hit and one miss are added."""
    p = (stream.total + 1) / (stream.n + 2)
    return math.sqrt(p * (1 - p) / (stream.n + 2))


def log_evidence_of_difference(new: Stream, base: Stream, difference: float, share: float = 0.5) -> float:
    """Return the logarithm of the evidence against `difference` = mean of `new` - mean of `base`.

    `share` is that of the new stream in all values, from 0 to 1. Evidence beyond `_MUCH` is cut off there.
    """
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    mixtures = _log_mixture(new) + _log_mixture(base)

    def learned(p: float) -> float:
        return mixtures - _log_likelihood(new, p + difference) - _log_likelihood(base, p)

    likeliest = _likeliest(new, base, difference, low, high)
    if learned(likeliest) >= _MUCH:
        return _MUCH - math.log(2)
    # Outside of these ends the product of two mixtures alone is that much evidence.
    spread = 8 * min(_deviation(new), _deviation(base))
    low, high = (_end(learned, _MUCH, likeliest, end, spread, 0.1) for end in (low, high))
    means = low + (high - low) * _MEANS
    weights = 1.0 / share, -1.0 / (1.0 - share)
    tilted = _log_tilts([(new, np.clip(means + difference, 0.0, 1.0), weights[0]), (base, means, weights[1])])
    both = np.logaddexp([learned(p) for p in means.tolist()], tilted)
    return min(float(both.min()), _MUCH) - math.log(2)


def _likeliest(new: Stream, base: Stream, difference: float, low: float, high: float) -> float:
    """Return the mean of `base` that is likeliest of those between `low` and `high`."""
    misses_new, misses_base = new.n - new.total, base.n - base.total
    for _ in range(60):  # the likelihood is log-concave in p: its slope falls
        p = (low + high) / 2
        q = p + difference
        rise = new.total / max(q, _EDGE) + base.total / max(p, _EDGE)
        if rise > misses_new / max(1.0 - q, _EDGE) + misses_base / max(1.0 - p, _EDGE):
            low = p
        else:
            high = p
        if high - low < 1e-9 * high:
            break
    return (low + high) / 2


@lru_cache(4096)
def difference_interval(new: Stream, base: Stream, alpha: float, share: float = 0.5) -> tuple[float, float]:
    """Return the confidence sequence of mean(new) - mean(base). `share` is about that of `new` among all values."""
    if new.mean is None or base.mean is None:
        return -1.0, 1.0
    limit, middle = -math.log(alpha), new.mean - base.mean
    reach = _reach(limit) * math.hypot(_deviation(new), _deviation(base))

    def evidence(difference: float) -> float:
        return log_evidence_of_difference(new, base, difference, share)

    low, high = (_end(evidence, limit, middle, end, reach) for end in (-1.0, 1.0))
    return low, high


def _end(
    evidence: Callable[[float], float],
    limit: float,
    inside: float,
    outermost: float,
    reach: float,
    close: float = _CLOSE,
) -> float:
    """Return the end of an interval, where evidence exceeds `limit`, between a place inside and the outermost one.

    By secants of the evidence's root, nearly a straight line, as evidence grows with the square of the distance. The
    value of an end that stays is halved (Illinois). `reach` is about the distance of the end from `inside`.
    """
    aim = math.sqrt(limit + _LEAST_EVIDENCE)

    def excess(place: float) -> float:
        return math.sqrt(max(0.0, evidence(place) + _LEAST_EVIDENCE)) - aim

    at_inside, at_outside = -aim, excess(outermost)
    if at_outside < 0 or inside == outermost:
        return outermost
    side = 0
    for turn in range(60):
        if abs(outermost - inside) <= close * reach:
            break
        share = at_inside / (at_inside - at_outside) if turn % 4 < 3 else 0.5
        middle = inside + min(max(share, 0.01), 0.99) * (outermost - inside)
        if turn == 0 and reach < abs(outermost - inside):
            middle = inside + math.copysign(reach, outermost - inside)
        excess_here = excess(middle)
        if excess_here < 0:
            inside, at_inside, at_outside = middle, excess_here, at_outside / 2 if side < 0 else at_outside
            side = -1
        else:
            outermost, at_outside, at_inside = middle, excess_here, at_inside / 2 if side > 0 else at_inside
            side = 1
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
class RunningSums:
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


def asymptotic_difference(new: RunningSums, base: RunningSums, alpha: float) -> tuple[float, float] | None:
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
