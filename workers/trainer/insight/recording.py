"""Record layers while they train, between two epochs, on a fixed batch of training rows.

A compiled pass over the batch (`probe`) gives gradients and the outputs of hidden layers; the figures are computed
here, with NumPy, for all replicas at once where trials train stacked. A recording costs about two training steps, so
short epochs are not all recorded: `due` decides, from the number of steps alone.

    weights, gradients   L2 norms of a layer's trainable weights, and of the loss's gradient for them
    updates              L2 norm of the weights' change since the last recording, divided by the epochs in between
    ratio                updates / weights
    sparsity             share of weights whose magnitude is below 1e-3
    saturated            share of a hidden layer's sigmoid or tanh units that are, on at least 95% of the rows, within
                         5% of the end of their range (Glorot and Bengio 2010)
    dead                 share of a hidden layer's ReLU units that are 0 on every row (Maas et al. 2013)
    values               the weights themselves, by name, of a network small enough to be drawn with them
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fitserve.settings import MB
from fitserve.strictjson import finite_json
from workers.trainer.engine.checkpoint import epochs_from_arrays, epochs_to_arrays
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.stacked_network import StackedNetwork
from workers.trainer.insight.probe import ENDS, LayerProbe, ModelProbe, ProbedLayer, StackProbe

CHEAP_STEPS = 40  # an epoch of this many steps can be recorded in less than 5% of its time
ALWAYS = 10  # the first epochs, which are always recorded: early trouble shows there
MAX_ROWS = 5_000  # recorded, of all trials that train at once
HISTOGRAM_EVERY = 10  # recordings
SMALL_WEIGHT = 1e-3
SATURATED_ROWS = 0.95
DIGITS = 6  # significant digits of recorded figures
BINS = 30
DRAWN_WEIGHTS = 512  # most weights of a network whose weights themselves are recorded
DRAWN_RECORDINGS = 400  # with weights, about, of all trials that train at once
HISTOGRAM_VALUES = 20_000  # most weights counted in a layer's histogram; of a larger layer, every n-th one is counted
SNAPSHOTS = 12
SNAPSHOT_BYTES = 32 * MB  # limit of one trial's snapshots; the current trial's and the best one's are held
STACKED_BYTES = 2 * SNAPSHOT_BYTES  # limit for all trials that train stacked
_SNAPSHOTS, _BEST = "snapshots", "best_snapshots"  # arrays of a checkpoint

Array = NDArray[Any]
Figures = dict[str, Any]
Weights = list[np.ndarray]


def due(epoch: int, epochs: int, steps: int, trials: int = 1) -> bool:
    """Return whether epoch `epoch` (from 1) of `epochs`, each of `steps` batches, is recorded, of `trials` at once."""
    every = max(1, -(-CHEAP_STEPS // max(1, steps)), -(-epochs * trials // MAX_ROWS))
    return epoch <= min(ALWAYS, 2 + epochs // 10) or epoch == epochs or epoch % every == 0


def snapshot_epochs(epochs: int) -> list[int]:
    """Return at most `SNAPSHOTS` epochs, the first and the last among them, dense at the start, where most happens."""
    return sorted({round(epoch) for epoch in np.geomspace(1, epochs, min(SNAPSHOTS, epochs))})


# --- trials --------------------------------------------------------------------------------------------


class TrialRecorder:
    """Records the trials of a run, and takes snapshots of their weights."""

    def __init__(
        self,
        model: keras.Model,
        rows: RowTensors,
        epochs: int,
        steps: int,
        probes: dict[Any, LayerProbe] | None = None,
    ) -> None:
        """Record networks like `model`.

        Args:
            rows: the training rows.
            steps: batches of an epoch.
            probes: those of the model and of its stacks, where they are kept for later runs.
        """
        self._probes = {} if probes is None else probes
        self._model, self._rows, self.epochs, self.steps = model, rows, epochs, steps
        self._layers: LayerRecorder | None = None
        self._snapshots: dict[int, Weights] = {}  # the current trial's weights by epoch
        self.best_snapshots: dict[int, Weights] = {}  # weights by epoch (from 1), of the best trial so far
        self.seconds = 0.0  # seconds spent recording
        self.size = sum(int(np.prod(v.shape)) * 4 for v in model.weights)
        self._snapshot_epochs = snapshot_epochs(epochs) if self.size * SNAPSHOTS <= SNAPSHOT_BYTES else []

    @contextmanager
    def timed(self) -> Iterator[None]:
        began_at = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began_at

    def begin(self, epoch: int = 0) -> None:
        """Start a trial, or continue it after epoch `epoch`, with the model's current weights."""
        with self.timed():
            self._snapshots = {}
            if self._layers is None:
                self._layers = LayerRecorder(self._probe(), epoch)
            else:
                self._layers.begin(epoch)

    def record(self, epoch: int) -> Figures | None:
        """Return the layers' figures after epoch `epoch` (from 1), if it is recorded."""
        with self.timed():
            figures = None
            if self._layers is not None and due(epoch, self.epochs, self.steps):
                figures = self._layers.record(epoch)[0]
            if epoch in self._snapshot_epochs:
                self._snapshots[epoch] = [v.value.numpy() for v in self._model.weights]
            return figures

    def final(self, epoch: int) -> Figures:
        """Return the layers' figures of the network as it is now, that of epoch `epoch`, with histograms."""
        with self.timed():
            if self._layers is None:
                self._layers = LayerRecorder(self._probe())
            return {"epoch": epoch, **self._layers.final()}

    def _probe(self) -> LayerProbe:
        return self.kept_probe(self._model, lambda: ModelProbe(self._model, self._rows))

    def kept_probe(self, network: Any, make: Callable[[], LayerProbe]) -> LayerProbe:
        """Return a network's probe: one that an earlier run left, or a new one."""
        probe = self._probes.get(id(network))
        if probe is None:
            return self._probes.setdefault(id(network), make())
        probe.look_at(self._rows)
        return probe

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the snapshots as a checkpoint holds them."""
        own, best = epochs_to_arrays(_SNAPSHOTS, self._snapshots), epochs_to_arrays(_BEST, self.best_snapshots)
        return own | best

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the current trial's snapshots back from a checkpoint, after `begin`."""
        self._snapshots = epochs_from_arrays(_SNAPSHOTS, arrays)

    def restore_best(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the best trial's snapshots back from a checkpoint."""
        self.best_snapshots = epochs_from_arrays(_BEST, arrays)

    def mark_best(self, snapshots: dict[int, Weights] | None = None) -> None:
        """Mark a trial as the best so far: the one that just ended, or another worker's with these snapshots."""
        self.best_snapshots = self._snapshots if snapshots is None else snapshots


class StackedTrialRecorder:
    """Records trials that train as one stacked network."""

    def __init__(self, stack: StackedNetwork, rows: RowTensors, run: TrialRecorder, epoch: int = 0) -> None:
        """`run` is the run's recorder, which gets the time and the snapshots. Training continues after `epoch`."""
        self._stack, self._run = stack, run
        self._snapshots: dict[int, list[Weights]] = {}  # the weights of every trial by epoch
        fits = stack.replicas * run.size * SNAPSHOTS <= STACKED_BYTES
        self._snapshot_epochs = snapshot_epochs(run.epochs) if fits else []
        with run.timed():
            self._layers = LayerRecorder(run.kept_probe(stack, lambda: StackProbe(stack, rows)), epoch)

    def record(self, epoch: int) -> list[Figures] | None:
        """Return the layers' figures of every trial after epoch `epoch` (from 1), if it is recorded."""
        with self._run.timed():
            recorded = due(epoch, self._run.epochs, self._run.steps, self._stack.replicas)
            figures = self._layers.record(epoch) if recorded else None
            if epoch in self._snapshot_epochs:
                self._snapshots[epoch] = [self._stack.weights(index) for index in range(self._stack.replicas)]
            return figures

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the snapshots as a checkpoint holds them."""
        arrays: dict[str, np.ndarray] = {}
        for epoch, by_trial in self._snapshots.items():
            arrays |= epochs_to_arrays(f"{_SNAPSHOTS}{epoch}", dict(enumerate(by_trial)))
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the snapshots back from a checkpoint."""
        for epoch in self._snapshot_epochs:
            if by_trial := epochs_from_arrays(f"{_SNAPSHOTS}{epoch}", arrays):
                self._snapshots[epoch] = [by_trial[trial] for trial in sorted(by_trial)]

    def snapshots(self, epochs: int) -> dict[int, list[Weights]]:
        """Return the weights of every trial after some of the first `epochs` epochs."""
        return {epoch: weights for epoch, weights in self._snapshots.items() if epoch <= epochs}

    def mark_best(self, trial: int, epochs: int) -> None:
        """Note the best trial, which trained for so many epochs."""
        snapshots = {epoch: weights[trial] for epoch, weights in self._snapshots.items() if epoch <= epochs}
        self._run.mark_best(snapshots)


# --- layers --------------------------------------------------------------------------------------------


class LayerRecorder:
    """Computes the figures of probed layers. Updates are measured from the weights at the last recording."""

    def __init__(self, probe: LayerProbe, epoch: int = 0) -> None:
        self.probe, self._recordings = probe, 0
        self.begin(epoch)
        self._drawn = sum(value[0].size for own in self._weights for value in own) <= DRAWN_WEIGHTS

    def begin(self, epoch: int = 0) -> None:
        """Start a trial, or continue it after epoch `epoch`, with the current weights."""
        self._epoch, self._weights = epoch, self.probe.weights()

    def record(self, epoch: int) -> list[Figures]:
        """Return every replica's `{"penalty": ..., "layers": [...]}` after epoch `epoch` (from 1), as JSON values.

        `penalty` is what regularizers add to the loss. A number that is not finite becomes None.
        """
        between, self._epoch = max(1, epoch - self._epoch), epoch
        before, self._weights = self._weights, self.probe.weights()
        updates = [
            [(new - old) / between for new, old in zip(*both, strict=True)]
            for both in zip(self._weights, before, strict=True)
        ]
        figures = self._figures(updates, self._recordings % HISTOGRAM_EVERY == 0)
        self._recordings += 1
        return figures

    def final(self) -> Figures:
        """Return the figures of the (first) replica as it is now, with histograms and without updates."""
        self._weights = self.probe.weights()
        return self._figures(None, True)[0]

    def _figures(self, updates: Sequence[Sequence[Array]] | None, histograms: bool) -> list[Figures]:
        result = self.probe.run()
        replicas = range(len(result.penalty))
        drawn = self._drawn and (self._recordings * len(replicas) < DRAWN_RECORDINGS or histograms)
        by_layer = []
        for index, layer in enumerate(self.probe.layers):
            weights = self._weights[index]
            by_name: dict[str, Any] = {}
            if weights:
                by_name |= _weight_figures(weights, result.gradients[index], updates[index] if updates else None)
            if (output := result.outputs[index]) is not None:
                by_name |= _unit_figures(layer, output)
            rows: list[Figures] = [{"name": layer.name, "class": type(layer.layer).__name__} for _ in replicas]
            for replica, row in enumerate(rows):
                row |= {name: finite_json(values[replica], DIGITS) for name, values in by_name.items()}
                if histograms and weights:
                    row["histogram"] = histogram(np.concatenate([value[replica].ravel() for value in weights]))
                if drawn and weights:
                    row["values"] = {
                        variable.name: finite_json(value[replica].reshape(variable.shape), DIGITS)
                        for variable, value in zip(layer.variables, weights, strict=True)
                    }
            by_layer.append(rows)
        return [
            {"penalty": finite_json(result.penalty[i], DIGITS), "layers": [rows[i] for rows in by_layer]}
            for i in replicas
        ]


def _weight_figures(
    weights: Sequence[Array], gradients: Sequence[Array], updates: Sequence[Array] | None
) -> dict[str, Any]:
    """Return figures by name, each with one value for each replica; arrays have the replicas first."""
    replicas = len(weights[0])
    size = sum(value.size for value in weights) // replicas
    small = sum(np.count_nonzero(np.abs(_flat(value)) < SMALL_WEIGHT, axis=1) for value in weights)
    norms = _norms(weights, replicas)
    figures: dict[str, Any] = {
        "size": [size] * replicas,
        "weights": norms,
        "gradients": _norms(gradients, replicas),
        "sparsity": np.asarray(small) / size,
    }
    if updates is not None:
        moved = _norms(updates, replicas)
        with np.errstate(all="ignore"):
            figures |= {"updates": moved, "ratio": moved / norms}
    return figures


def _unit_figures(layer: ProbedLayer, output: Array) -> dict[str, Any]:
    """Return shares of saturated or of dead units. A unit is a channel: its rows and positions are counted together."""
    flat = output.reshape(len(output), -1, output.shape[-1])
    if layer.activation not in ENDS:
        return {"dead": (flat.max(axis=1) <= 0.0).mean(axis=1)}
    low, high = ENDS[layer.activation]
    near = 0.05 * (high - low)
    at_end = (flat < low + near) | (flat > high - near)
    return {"saturated": (at_end.mean(axis=1) >= SATURATED_ROWS).mean(axis=1)}


def histogram(values: Array) -> dict[str, Any] | None:
    """Return `{"low", "high", "counts"}` of finite values in `BINS` equal bins; None where a value is not finite."""
    values = values[:: max(1, len(values) // HISTOGRAM_VALUES)]
    if not np.isfinite(values).all():
        return None
    counts, edges = np.histogram(values, BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def _flat(value: Array) -> Array:
    return value.reshape(len(value), -1)


def _norms(parts: Sequence[Array], replicas: int) -> Array:
    squares = np.zeros(replicas)
    for part in parts:
        squares += [float(np.dot(one, one)) for one in _flat(part)]
    return np.sqrt(squares)
