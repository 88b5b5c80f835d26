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
FEW_BENDS = 40  # up to which plain Python is faster for a row than NumPy


def design(values: Array, feeds: Mapping[str, Array], names: list[str]) -> Array:
    """Return what a spread is computed from, (rows, inputs + 1): the encoded inputs by name, and the prediction."""
    middle = values[:, values.shape[1] // 2 : values.shape[1] // 2 + 1]
    parts = [feed if (feed := feeds[name]).ndim == 2 else feed.reshape(len(values), -1) for name in names]
    return np.concatenate([*parts, middle], axis=1, dtype=np.float64)


class Spread:
    """A spread, ready for rows."""

    def __init__(self, spread: Mapping[str, Any]) -> None:
        self.needs_feeds = spread["kind"] == "inputs"
        if not self.needs_feeds:
            self._floor = float(spread["floor"])
            return
        self._names = [str(name) for name in spread["inputs"]]
        self._low, self._high = map(float, spread["range"])
        self._constant, bends = _as_bends(spread)
        self._few = bends if len(bends) <= FEW_BENDS else None
        self._places = np.array([place for place, _, _ in bends], np.intp)
        self._knots = np.array([knot for _, knot, _ in bends], np.float64)
        self._weights = np.array([weight for _, _, weight in bends], np.float64)

    def of(self, values: Array, feeds: Mapping[str, Array] | None) -> Array:
        """Return each row's spread, (rows,), above 0. `values` are the outputs, (rows, units)."""
        if not self.needs_feeds:
            return np.asarray(np.maximum(values[:, -1] - values[:, 0], self._floor))
        assert feeds is not None
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
        if not self.needs_feeds:
            return [max(row[-1] - row[0], self._floor) for row in rows]
        assert feeds is not None
        if len(rows) > 1:
            return self.of_design(design(np.array(rows, np.float64), feeds, self._names)).tolist()  # type: ignore[no-any-return]
        (row,) = rows
        parts = [feeds[name][0] for name in self._names]
        if self._few is not None:
            x = [*parts[0].tolist()] if len(parts) == 1 else [one for part in parts for one in part.ravel().tolist()]
            x.append(row[len(row) // 2])
            total = self._constant
            for place, knot, weight in self._few:
                if (above := x[place] - knot) > 0:
                    total += weight * above
        else:  # as `of_design`, with the calls of NumPy that one row needs
            bent = np.concatenate([*map(np.ravel, parts), [row[len(row) // 2]]], dtype=np.float64).take(self._places)
            bent -= self._knots
            total = self._constant + float(np.maximum(bent, 0.0, out=bent).dot(self._weights))
        return [math.exp(min(max(total, self._low), self._high))]


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
