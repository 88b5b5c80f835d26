"""The learning-rate range test (Smith 2017): train batches with a rising rate, and suggest one from their losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.spec.check import RangeTest
from workers.trainer.checks.quick_network import QuickNetwork

_SMOOTHING = 0.8
_EXPLODED = 4.0  # the loss has exploded at this many times the lowest loss
_TRIED = 40  # batches at one rate, to see whether it diverges
_HALVINGS = 12
_AWAY = 10.0  # the suggested rate is at most a tenth of the one that diverges


def range_test(network: QuickNetwork, options: RangeTest) -> dict[str, Any]:
    """Return the curve, the rate where the loss falls fastest, the first that diverges, and the one to use."""
    rates, losses = _curve(network, options)
    smooth = _smoothed(losses)
    diverges_at = _first_that_diverges(network, options)
    steepest = _steepest(rates, smooth)
    suggested = steepest
    if suggested is not None and diverges_at is not None:
        suggested = min(suggested, diverges_at / _AWAY)
    points = [
        {"learning_rate": float(rate), "loss": float(loss), "smoothed": float(even)}
        for rate, loss, even in zip(rates, losses, smooth, strict=True)
    ]
    return {
        "curve": points,
        "steepest": _rounded(steepest),
        "diverges_at": _rounded(diverges_at),
        "suggested": _rounded(suggested),
        "says": _says(options, _rounded(suggested), _rounded(diverges_at)),
    }


def _curve(network: QuickNetwork, options: RangeTest) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rates and the loss of the batch before the step with each; it ends where the loss explodes."""
    rates = np.geomspace(options.low, options.high, options.steps)
    network.begin(float(rates[0]))
    losses: list[float] = []
    lowest = math.inf
    for loss in network.steps(options.steps):
        if not math.isfinite(loss):
            break
        losses.append(loss)
        lowest = min(lowest, loss)
        if len(losses) > options.steps // 10 and loss > _EXPLODED * max(lowest, losses[0]):
            break
        if len(losses) < options.steps:
            network.set_rate(float(rates[len(losses)]))
    return rates[: len(losses)], np.array(losses)


def _smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, smooth = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smooth.append(mean / (1 - _SMOOTHING**step))
    return np.array(smooth)


def _steepest(rates: NDArray[np.float64], smooth: NDArray[np.float64]) -> float | None:
    """Return the rate at which the loss falls fastest, by the logarithm of the rate; None if it never falls."""
    end = int(np.argmin(smooth)) + 1 if len(smooth) else 0
    if end < 3:
        return None
    slope = np.gradient(smooth[:end], np.log(rates[:end]))
    at = int(np.argmin(slope))
    return float(rates[at]) if slope[at] < 0 else None


def _first_that_diverges(network: QuickNetwork, options: RangeTest) -> float | None:
    """Return the lowest constant rate from which the loss rises above its beginning, by halving; None where none does.

    The rising rate alone shows divergence too late: once the loss is at its lowest, it takes many batches to rise
    again.
    """
    if not _diverges(network, options.high):
        return None
    if _diverges(network, options.low):
        return options.low
    low, high = options.low, options.high
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _diverges(network, middle) else (middle, high)
    return high


def _diverges(network: QuickNetwork, rate: float) -> bool:
    network.begin(rate)
    losses = network.run(_TRIED)
    if not math.isfinite(losses[-1]):
        return True
    few = max(1, len(losses) // 4)
    network.begin(0.0)
    before = float(np.mean(network.run(few)))  # loss of as many batches with the first weights
    return float(np.mean(losses[-few:])) > before


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else float(f"{rate:.3g}")


def _says(options: RangeTest, suggested: float | None, diverges_at: float | None) -> str:
    if suggested is None:
        return f"The loss does not fall at any learning rate from {options.low:g} to {options.high:g}."
    end = f"training diverges from {diverges_at:g} on" if diverges_at else f"nothing diverges up to {options.high:g}"
    return f"A learning rate of {suggested:g} is suggested; {end}."
