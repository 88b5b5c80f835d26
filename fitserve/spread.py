"""The spread of a regression's error, row by row: what the scores of its intervals are divided by.

A spread is JSON, by `kind`:

- quantiles: the distance of the network's own outermost quantiles (conformalised quantile regression, Romano et al.
  2019, with scores divided by the distance), at least `floor`.
- inputs: `exp(bias + sum(linear * x) + sum(weight * max(0, x[input] - knot)))`, the second sum over `hinges`; `x` are
  the encoded inputs and last the prediction, `clipped` to the range that the fitted rows had, and the sum to `range`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def design(values: Array, feeds: Mapping[str, Array], names: list[str]) -> Array:
    """Return what a spread is computed from, (rows, inputs + 1): the encoded inputs by name, and the prediction."""
    middle = values[:, values.shape[1] // 2 : values.shape[1] // 2 + 1]
    parts = [np.asarray(feeds[name], np.float64).reshape(len(values), -1) for name in names]
    return np.concatenate([*parts, middle], axis=1)


class Spread:
    """A spread, ready for rows."""

    def __init__(self, spread: Mapping[str, Any]) -> None:
        self.needs_feeds = spread["kind"] == "inputs"
        if not self.needs_feeds:
            self._floor = float(spread["floor"])
            return
        self._names = [str(name) for name in spread["inputs"]]
        self._bias = float(spread["bias"])
        self._linear, hinges = np.asarray(spread["linear"], np.float64), spread["hinges"]
        self._places = np.asarray(hinges["input"], np.intp)
        self._knots, self._weights = (np.asarray(hinges[key], np.float64) for key in ("knot", "weight"))
        self._low, self._high = (np.asarray(end, np.float64) for end in spread["clipped"])
        self._range = tuple(map(float, spread["range"]))

    def of(self, values: Array, feeds: Mapping[str, Array] | None) -> Array:
        """Return each row's spread, (rows,), above 0. `values` are the outputs, (rows, units)."""
        if not self.needs_feeds:
            return np.asarray(np.maximum(values[:, -1] - values[:, 0], self._floor))
        assert feeds is not None
        return self.of_design(design(values, feeds, self._names))

    def of_design(self, x: Array) -> Array:
        """Return the spread from what `design` returned, which is overwritten."""
        np.minimum(np.maximum(x, self._low, out=x), self._high, out=x)
        logs = x @ self._linear
        if len(self._places):
            bent = x[:, self._places]
            bent -= self._knots
            logs += np.maximum(bent, 0.0, out=bent) @ self._weights
        logs += self._bias
        return np.asarray(np.exp(np.minimum(np.maximum(logs, self._range[0]), self._range[1])))
