"""Layers as they train: looked at between two epochs, on a fixed batch of training rows.

A compiled pass over the batch (`probe`) gives gradients and the outputs of hidden layers; what is said of them is
reckoned here, with NumPy, for all replicas at once where trials train stacked. A look costs about two training steps,
so that short epochs are not all looked at: `due` says which, from the number of steps alone.

    weights, gradients   L2 norms of a layer's trainable weights, and of the loss's gradient for them
    updates              L2 norm of the weights' change since the last look, divided by the epochs in between
    ratio                updates / weights
    sparsity             share of weights whose magnitude is below 1e-3
    saturated            share of a hidden layer's sigmoid or tanh units that are, on at least 95% of the rows, within
                         5% of the end of their range (Glorot and Bengio 2010)
    dead                 share of a hidden layer's ReLU units that are 0 on every row (Maas et al. 2013)
    values               the weights themselves, by name, of a network so small that it can be drawn with them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.strictjson import finite_json
from workers.trainer.insight.probe import ENDS, Probe, Watched

STEPS_WORTH = 40  # an epoch of so many steps can be looked at for less than 5% of its time
ALWAYS = 10  # the first epochs are looked at in any case: what goes wrong early shows there
MOST_ROWS = 5_000  # of all looks into all trials that train at once
SMALL = 1e-3
DIGITS = 6  # significant ones, of recorded figures
SATURATED_ROWS = 0.95
BINS = 30
DRAWN_WEIGHTS = 512  # of a network whose weights are recorded themselves
DRAWN_LOOKS = 400  # at most about so many looks, of all trials at once, record them
HISTOGRAM_VALUES = 20_000  # a larger layer's histogram is of every n-th weight

Array = NDArray[Any]
Row = dict[str, Any]


def due(epoch: int, epochs: int, steps: int, trials: int = 1) -> bool:
    """Whether epoch `epoch` (from 1) of `epochs`, each of `steps` batches, is looked at, in `trials` at once."""
    every = max(1, -(-STEPS_WORTH // max(1, steps)), -(-epochs * trials // MOST_ROWS))
    return epoch <= min(ALWAYS, 2 + epochs // 10) or epoch == epochs or epoch % every == 0


def histogram_due(look: int) -> bool:
    """Whether the `look`-th look (from 0) takes histograms as well: the first, and every tenth."""
    return look % 10 == 0


class Recorder:
    """Says what a probe sees. Updates are counted from the weights that are in place when it is made, or begins."""

    def __init__(self, probe: Probe, epoch: int = 0) -> None:
        self.probe, self._looks = probe, 0
        self.begin(epoch)
        self._drawn = sum(value[0].size for own in self._before for value in own) <= DRAWN_WEIGHTS

    def begin(self, epoch: int = 0) -> None:
        """A trial begins, or goes on, after epoch `epoch`: the weights of that moment are in place."""
        self._last, self._before = epoch, self.probe.weights()

    def look(self, epoch: int) -> list[Row]:
        """The row of epoch `epoch` (from 1) of every replica: `{"penalty": ..., "layers": [...]}`, plain JSON values.

        `penalty` is what regularizers add to the loss, at this moment. A number that is not finite becomes None.
        """
        between, self._last = max(1, epoch - self._last), epoch
        before, self._before = self._before, self.probe.weights()
        moved = [
            [(new - old) / between for new, old in zip(*both, strict=True)]
            for both in zip(self._before, before, strict=True)
        ]
        rows = self._rows(moved, histogram_due(self._looks))
        self._looks += 1
        return rows

    def final(self) -> Row:
        """The (first) replica as it stands now, with histograms; what moved is not said."""
        self._before = self.probe.weights()
        return self._rows(None, True)[0]

    def _rows(self, moved: Sequence[Sequence[Array]] | None, histograms: bool) -> list[Row]:
        seen = self.probe.run()
        drawn = self._drawn and (self._looks * len(seen.penalty) < DRAWN_LOOKS or histograms)
        by_layer = []
        for at, one in enumerate(self.probe.watched):
            layer = [{"name": one.layer.name, "class": type(one.layer).__name__} for _ in seen.penalty]
            if self._before[at]:
                _say(layer, _of_weights(self._before[at], seen.gradients[at], moved[at] if moved else None))
            if (output := seen.outputs[at]) is not None:
                _say(layer, _of_units(one, output))
            if histograms and self._before[at]:
                for replica, row in enumerate(layer):
                    row["histogram"] = histogram(np.concatenate([v[replica].ravel() for v in self._before[at]]))
            for replica, row in enumerate(layer if drawn and self._before[at] else ()):
                row["values"] = _values(one, [value[replica] for value in self._before[at]])
            by_layer.append(layer)
        return [
            {"penalty": finite_json(penalty, DIGITS), "layers": [layer[replica] for layer in by_layer]}
            for replica, penalty in enumerate(seen.penalty)
        ]


def _say(rows: Sequence[Row], figures: dict[str, Sequence[Any]]) -> None:
    for name, values in figures.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value if isinstance(value, int) else finite_json(value, DIGITS)


def _of_weights(own: Sequence[Array], gradients: Sequence[Array], moved: Sequence[Array] | None) -> dict[str, Any]:
    """Figures by name, each with a value a replica; arrays have the replicas first."""
    replicas = len(own[0])
    size = sum(value.size for value in own) // replicas
    small = sum(np.count_nonzero(np.abs(_flat(value)) < SMALL, axis=1) for value in own)
    figures: dict[str, Any] = {
        "size": [size] * replicas,
        "weights": (weights := _norms(own, replicas)),
        "gradients": _norms(gradients, replicas),
        "sparsity": np.asarray(small) / size,
    }
    if moved is not None:
        updates = _norms(moved, replicas)
        with np.errstate(all="ignore"):
            figures |= {"updates": updates, "ratio": updates / weights}
    return figures


def _of_units(one: Watched, output: Array) -> dict[str, Any]:
    """Shares of saturated or of dead units. A unit is a channel: rows and places are counted together."""
    flat = output.reshape(len(output), -1, output.shape[-1])
    if one.activation not in ENDS:
        return {"dead": (flat.max(axis=1) <= 0.0).mean(axis=1)}  # of ReLU, which says nothing below 0
    low, high = ENDS[one.activation]
    near = 0.05 * (high - low)
    at_end = (flat < low + near) | (flat > high - near)
    return {"saturated": (at_end.mean(axis=1) >= SATURATED_ROWS).mean(axis=1)}


def histogram(values: Array) -> dict[str, Any] | None:
    """`{"low", "high", "counts"}` of finite values in `BINS` equal bins; None where a value is not finite."""
    values = values[:: max(1, len(values) // HISTOGRAM_VALUES)]
    if not np.isfinite(values).all():
        return None
    counts, edges = np.histogram(values, BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def _values(one: Watched, values: Sequence[Array]) -> dict[str, Any]:
    own = zip(one.layer.trainable_variables, values, strict=True)
    return {variable.name: finite_json(value.reshape(variable.shape), DIGITS) for variable, value in own}


def _flat(value: Array) -> Array:
    return value.reshape(len(value), -1)


def _norms(parts: Sequence[Array], replicas: int) -> Array:
    squares = np.zeros(replicas)
    for part in parts:
        squares += [float(np.dot(one, one)) for one in _flat(part)]
    return np.sqrt(squares)
