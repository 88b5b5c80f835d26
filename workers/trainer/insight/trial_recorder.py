"""Looks at a run's trials between epochs: rows for `Reporter.epoch`, and copies of the weights along the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from workers.trainer.engine.compiled import Rows
from workers.trainer.insight.probe import ModelProbe, StackProbe
from workers.trainer.insight.recording import Recorder, due
from workers.trainer.trials.stacked_network import Stack

COPIES = 12
COPIES_BYTES = 32 * 1024 * 1024  # of one trial; two are held, the running one's and the best one's
STACKED_BYTES = 2 * COPIES_BYTES  # of all trials that train stacked

Weights = list[np.ndarray]


class Watch:
    """Follows the trials of a run. `rows` are the training rows, `steps` the batches of an epoch."""

    def __init__(self, model: keras.Model, rows: Rows, epochs: int, steps: int) -> None:
        self._model, self._rows, self.epochs, self.steps = model, rows, epochs, steps
        self._recorder: Recorder | None = None
        self.copies: dict[int, Weights] = {}  # of the trial at hand, as `kept`
        self.kept: dict[int, Weights] = {}  # epoch (from 1) to weights, of the trial that leads
        self.seconds = 0.0  # spent looking
        self.size = sum(int(np.prod(v.shape)) * 4 for v in model.weights)
        self._copied = copied_epochs(epochs) if self.size * COPIES <= COPIES_BYTES else []

    def begin(self, epoch: int = 0) -> None:
        """A trial begins, or goes on after epoch `epoch`: the weights of that moment are in place."""
        begun = time.perf_counter()
        self.copies = {}
        if self._recorder is None:
            self._recorder = Recorder(ModelProbe(self._model, self._rows), epoch)
        else:
            self._recorder.begin(epoch)
        self.seconds += time.perf_counter() - begun

    def look(self, epoch: int) -> dict[str, Any] | None:
        """The layers after epoch `epoch` (from 1), on the epochs that are looked at."""
        begun = time.perf_counter()
        row = None
        if self._recorder is not None and due(epoch, self.epochs, self.steps):
            row = self._recorder.look(epoch)[0]
        if epoch in self._copied:
            self.copies[epoch] = [v.value.numpy() for v in self._model.weights]
        self.seconds += time.perf_counter() - begun
        return row

    def final(self, epoch: int) -> dict[str, Any]:
        """The layers of the network as it stands now, that of epoch `epoch`, with histograms."""
        begun = time.perf_counter()
        if self._recorder is None:
            self._recorder = Recorder(ModelProbe(self._model, self._rows))
        row = self._recorder.final()
        self.seconds += time.perf_counter() - begun
        return {"epoch": epoch, **row}

    def leads(self, copies: dict[int, Weights] | None = None) -> None:
        """The trial that just ended is the best so far, or one that was trained elsewhere, of these copies."""
        self.kept = self.copies if copies is None else copies


class StackedWatch:
    """Follows trials that train as one stacked network."""

    def __init__(self, stack: Stack, rows: Rows, watch: Watch, epoch: int = 0) -> None:
        """`watch` is the run's; it is told what was kept. `epoch`: after which training goes on."""
        begun = time.perf_counter()
        self._stack, self._watch = stack, watch
        self._recorder = Recorder(StackProbe(stack, rows), epoch)
        self._copied = copied_epochs(watch.epochs) if stack.replicas * watch.size * COPIES <= STACKED_BYTES else []
        self._copies: dict[int, list[Weights]] = {}  # epoch to the weights of every trial
        watch.seconds += time.perf_counter() - begun

    def look(self, epoch: int) -> list[dict[str, Any]] | None:
        """The layers of every trial after epoch `epoch` (from 1), on the epochs that are looked at."""
        begun = time.perf_counter()
        looked = due(epoch, self._watch.epochs, self._watch.steps, self._stack.replicas)
        rows = self._recorder.look(epoch) if looked else None
        if epoch in self._copied:
            self._copies[epoch] = [self._stack.weights(at) for at in range(self._stack.replicas)]
        self._watch.seconds += time.perf_counter() - begun
        return rows

    def leads(self, trial: int, epochs: int) -> None:
        """The trial that is kept, which trained for so many epochs."""
        self._watch.kept = {epoch: every[trial] for epoch, every in self._copies.items() if epoch <= epochs}


def copied_epochs(epochs: int) -> list[int]:
    """At most `COPIES` epochs, dense in the beginning, where most happens: the first and the last among them."""
    return sorted({round(epoch) for epoch in np.geomspace(1, epochs, min(COPIES, epochs))})


class Restored:
    """Puts copies of the weights into the model for a while."""

    def __init__(self, model: keras.Model) -> None:
        self._model, self._own = model, [v.value.numpy() for v in model.weights]

    def at(self, weights: Weights, do: Callable[[], Any]) -> Any:
        """What `do` returns with these weights in place; the model's own are put back."""
        try:
            self._put(weights)
            return do()
        finally:
            self._put(self._own)

    def _put(self, weights: Weights) -> None:
        for variable, value in zip(self._model.weights, weights, strict=True):
            variable.assign(value)
