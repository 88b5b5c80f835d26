"""Fit the spread of a regression's errors, row by row, on rows that training did not see.

A gamma regression with a logarithmic link predicts the size of an error from the encoded inputs and the prediction,
each as a piecewise linear function with bends at its quartiles. It is fitted on a part of the held-out rows; the others
give the scores, so that coverage stays exact (Lei et al. 2018). A spread is used if, cross-fitted on its own part, it
makes intervals narrower on average than one width for all rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import GammaRegressor
from threadpoolctl import threadpool_limits

from fitserve.spread import Spread, design

FEWEST_ROWS = 100  # fewest rows in each part
MAX_FITTED = 2_000  # rows
MAX_SCORED = 20_000
MAX_INPUTS = 400  # most encoded inputs; with more, only the prediction is used
MAX_BENT = 64  # most inputs with bends at their quartiles
NARROWER = 0.98  # widths by row are used only if their mean is below this share of the single width
ALPHAS = (0.001, 0.01, 0.1, 1.0)  # penalties that are tried

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FittedSpread:
    """A fitted spread, as in `fitserve.spread` (None: one width for all rows); `scored` are the rows for the scores."""

    spread: dict[str, Any] | None
    scored: Array
    why: str


def fit_spread(values: Array, feeds: Mapping[str, Array], residuals: Floats, level: float, seed: int) -> FittedSpread:
    """Fit the spread of a regression's errors. `values` are its outputs on held-out rows, `feeds` their inputs.

    The mean widths are compared at `level`.
    """
    rows, everything = len(residuals), np.arange(len(residuals))
    order = np.random.default_rng([seed, 7]).permutation(rows)
    if values.shape[1] > 1:
        return _of_quantiles(np.asarray(values, np.float64), residuals, order, level)
    if rows < 2 * FEWEST_ROWS:
        why = f"{rows} held-out rows are too few to tell where errors are larger; it takes {2 * FEWEST_ROWS}"
        return FittedSpread(None, everything, why)
    fitted, scored = np.split(order, [min(rows // 2, MAX_FITTED)])
    names = _usable(feeds)
    x = design(np.asarray(values[fitted], np.float64), {name: feeds[name][fitted] for name in names}, names)
    sizes = np.abs(residuals[fitted])
    if not np.isfinite(x).all() or np.count_nonzero(sizes) < FEWEST_ROWS:
        return FittedSpread(None, everything, "errors are 0, or inputs are not numbers")
    with threadpool_limits(1):  # for sums this small, several threads take longer to synchronise than to compute
        alpha, unseen = _cross_fitted(x, sizes, names)
        spread = _fit(x, sizes, names, alpha)
    narrower = mean_width(residuals[fitted], unseen, level) / mean_width(residuals[fitted], np.ones(len(x)), level)
    if not narrower < NARROWER:
        why = f"errors by row would make intervals {narrower:.2f} times as wide on average"
        return FittedSpread(None, everything, why)
    why = f"errors by row make intervals {narrower:.2f} times as wide on average"
    return FittedSpread(spread, np.sort(scored[:MAX_SCORED]), why)


def _of_quantiles(values: Floats, residuals: Floats, order: Array, level: float) -> FittedSpread:
    """Return the distance between the network's own quantiles as spread, if it narrows intervals. Nothing is fitted."""
    distances = values[:, -1] - values[:, 0]
    floor = max(1e-3 * float(np.median(np.abs(distances))), 1e-12)
    spread, judged = np.maximum(distances, floor), order[: max(1, len(order) // 2)]
    ones = np.ones(len(judged))
    narrower = mean_width(residuals[judged], spread[judged], level) / mean_width(residuals[judged], ones, level)
    if not narrower < NARROWER:
        why = f"the network's quantiles would make intervals {narrower:.2f} times as wide on average"
        return FittedSpread(None, np.arange(len(order)), why)
    why = f"the network's quantiles make intervals {narrower:.2f} times as wide on average"
    return FittedSpread({"kind": "quantiles", "floor": floor}, np.sort(order[len(judged) :]), why)


def mean_width(residuals: Floats, spread: Floats, level: float) -> float:
    """Return the mean width of intervals whose limits are quantiles of the same rows' scores."""
    low, high = np.quantile(residuals / spread, [(1 - level) / 2, (1 + level) / 2])
    return float((high - low) * spread.mean()) or 1e-300


def _usable(feeds: Mapping[str, Array]) -> list[str]:
    names = sorted(name for name, array in feeds.items() if np.issubdtype(array.dtype, np.floating))
    width = sum(int(np.prod(feeds[name].shape[1:])) for name in names)
    return names if width <= MAX_INPUTS else []


def _cross_fitted(x: Floats, sizes: Floats, names: list[str]) -> tuple[float, Floats]:
    """Return the best penalty, and each row's spread by a fit to the other half of the rows."""
    best, chosen, spread = np.inf, ALPHAS[0], np.ones(len(x))
    for alpha in ALPHAS:
        unseen = np.empty(len(x))
        for own in (0, 1):
            half = np.arange(len(x)) % 2 == own
            unseen[half] = Spread(_fit(x[~half], sizes[~half], names, alpha)).of_design(x[half])
        deviance = float((np.log(unseen) + sizes / unseen).mean())
        if deviance < best:
            best, chosen, spread = deviance, alpha, unseen
    return chosen, spread


def _fit(x: Floats, sizes: Floats, names: list[str], alpha: float) -> dict[str, Any]:
    places, knots = _bends(x)
    low, high, width = x.min(axis=0), x.max(axis=0), x.shape[1]
    basis = np.concatenate([x, np.maximum(x[:, places] - knots, 0.0)], axis=1)
    center, scale = basis.mean(axis=0), basis.std(axis=0)
    scale[scale <= 1e-12 * np.maximum(1.0, np.abs(center))] = np.inf  # a constant column explains nothing
    unit = float(sizes.mean())
    model = GammaRegressor(alpha=alpha, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((basis - center) / scale, np.maximum(sizes / unit, 1e-6))
    weights = np.asarray(model.coef_, np.float64) / scale
    bias = float(model.intercept_) + float(np.log(unit)) - float(center @ weights)
    return {
        "kind": "inputs",
        "inputs": names,
        "bias": bias,
        "linear": weights[:width].tolist(),
        "hinges": {"input": places.tolist(), "knot": knots.tolist(), "weight": weights[width:].tolist()},
        "clipped": [low.tolist(), high.tolist()],
        "range": np.quantile(basis @ weights + bias, [0.01, 0.99]).tolist(),
    }


def _bends(x: Floats) -> tuple[Array, Floats]:
    """Return which inputs have bends, and where: at the quartiles inside their range."""
    places: list[int] = []
    knots: list[float] = []
    for place in range(x.shape[1] if x.shape[1] <= MAX_BENT else 0):
        inner = np.unique(np.quantile(x[:, place], [0.25, 0.5, 0.75]))
        inside = inner[(inner > x[:, place].min()) & (inner < x[:, place].max())]
        places += [place] * len(inside)
        knots += inside.tolist()
    return np.asarray(places, np.intp), np.asarray(knots, np.float64)
