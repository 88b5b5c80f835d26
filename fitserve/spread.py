"""The spread of a regression's error, row by row: what the scores of its intervals are divided by.

A spread is JSON, by `kind`:

- quantiles: the distance of the network's own outermost quantiles (conformalised quantile regression, Romano et al.
  2019, with scores divided by the distance), at least `floor`.
- inputs: `exp(bias + sum(linear * x) + sum(weight * max(0, x[input] - knot)))`, the second sum over `hinges`; `x` are
  the encoded inputs and last the prediction, `clipped` to the range that the fitted rows had, and the sum to `range`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
CHUNK = 4_096  # rows at a time
FEW_BENDS = 40  # up to here, plain Python is faster than NumPy for one row


def design(values: Array, feeds: Mapping[str, Array], names: list[str]) -> Array:
    """Return what a spread is computed from, (rows, inputs + 1): the encoded inputs by name, and the prediction."""
    middle = values[:, values.shape[1] // 2 : values.shape[1] // 2 + 1]
    parts = [feed if (feed := feeds[name]).ndim == 2 else feed.reshape(len(values), -1) for name in names]
    return np.concatenate([*parts, middle], axis=1, dtype=np.float64)


class Spread:
    """A spread, ready for rows."""

    def __init__(self, spread: Mapping[str, Any]) -> None:
        self._floor = float(spread["floor"]) if spread["kind"] == "quantiles" else None
        self._names = [str(name) for name in spread.get("inputs") or ()]
        self.needs_feeds = bool(self._names)
        if self._floor is not None:
            return
        self._low, self._high = map(float, spread["range"])
        self._constant, bends = _as_bends(spread)
        width = len(spread["linear"]) - 1
        self._of_prediction = [(knot, weight) for place, knot, weight in bends if place == width]
        of_inputs = len(bends) - len(self._of_prediction)  # bends of inputs come first
        self._few = bends[:of_inputs] if len(bends) <= FEW_BENDS else None
        self._places = np.array([place for place, _, _ in bends], np.intp)
        self._knots = np.array([knot for _, knot, _ in bends], np.float64)
        self._weights = np.array([weight for _, _, weight in bends], np.float64)
        self._few_places = self._places[:of_inputs]
        self._few_knots, self._few_weights = self._knots[:of_inputs], self._weights[:of_inputs]

    def of(self, values: Array, feeds: Mapping[str, Array] | None) -> Array:
        """Return each row's spread, (rows,), above 0. `values` are the outputs, (rows, units)."""
        if self._floor is not None:
            return np.asarray(np.maximum(values[:, -1] - values[:, 0], self._floor))
        feeds = feeds or {}
        if len(values) > CHUNK:
            parts = range(0, len(values), CHUNK)
            own = {name: feeds[name] for name in self._names}
            return np.concatenate(
                [self.of(values[at : at + CHUNK], {k: v[at : at + CHUNK] for k, v in own.items()}) for at in parts]
            )
        return self.of_design(design(values, feeds, self._names))

    def of_design(self, x: Array) -> Array:
        """Return the spread from what `design` returned."""
        bent = x.take(self._places, axis=1)
        bent -= self._knots
        logs = np.maximum(bent, 0.0, out=bent) @ self._weights
        logs += self._constant
        return np.asarray(np.exp(np.minimum(np.maximum(logs, self._low), self._high)))

    def of_few(self, rows: list[list[float]], feeds: Mapping[str, Array] | None) -> list[float]:
        """Return the spread of a few rows, whose outputs are lists."""
        if self._floor is not None:
            return [max(row[-1] - row[0], self._floor) for row in rows]
        feeds = feeds or {}
        if len(rows) > 1:
            return self.of_design(design(np.array(rows, np.float64), feeds, self._names)).tolist()  # type: ignore[no-any-return]
        return [self._of_one(rows[0], [feeds[name].ravel() for name in self._names])]

    def _of_one(self, row: list[float], parts: list[Array]) -> float:
        """Return one row's spread, from its outputs and inputs: as `of_design`, by the fewest calls."""
        total = self._constant
        if not parts:
            pass  # the prediction alone determines the spread
        elif self._few is not None:
            inputs = parts[0].tolist() if len(parts) == 1 else [one for part in parts for one in part.tolist()]
            for place, knot, weight in self._few:
                if (above := inputs[place] - knot) > 0:
                    total += weight * above
        else:
            x = parts[0] if len(parts) == 1 else np.concatenate(parts)
            bent = x.take(self._few_places) - self._few_knots
            total += float(np.maximum(bent, 0.0, out=bent).dot(self._few_weights))
        middle = row[len(row) // 2]
        for knot, weight in self._of_prediction:
            if middle > knot:
                total += weight * (middle - knot)
        return math.exp(min(max(total, self._low), self._high))


def _as_bends(spread: Mapping[str, Any]) -> tuple[float, list[tuple[int, float, float]]]:
    """Return the same sum as a constant and bends alone: the weight of the amount by which an input exceeds a knot.

    A slope between two ends is a bend at the lower one, and one that undoes everything at the upper one.
    """
    lows, highs = spread["clipped"]
    own: list[list[tuple[float, float]]] = [[] for _ in spread["linear"]]
    hinges = spread["hinges"]
    for place, knot, weight in zip(hinges["input"], hinges["knot"], hinges["weight"], strict=True):
        own[place].append((float(knot), float(weight)))
    constant, bends = float(spread["bias"]), []
    for place, (slope, low, high) in enumerate(zip(spread["linear"], lows, highs, strict=True)):
        constant += slope * low + sum(weight * max(0.0, low - knot) for knot, weight in own[place])
        start = slope + sum(weight for knot, weight in own[place] if knot <= low)
        inside = [(knot, weight) for knot, weight in own[place] if low < knot < high]
        parts = [(low, start), *inside, (high, -start - sum(weight for _, weight in inside))]
        bends += [(place, float(knot), float(weight)) for knot, weight in parts if weight]
    return constant, bends
