"""Looks at a run's trials between epochs: rows for `Reporter.epoch`, and copies of the weights along the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from workers.trainer.compiled import Rows
from workers.trainer.insight.recording import Recorder, due

COPIES = 12
COPIES_BYTES = 32 * 1024 * 1024  # of one trial; two are held, the running one's and the best one's

Weights = list[np.ndarray]


class Watch:
    """Follows the trials of a run. `rows` are the training rows, `steps` the batches of an epoch."""

    def __init__(self, model: keras.Model, rows: Rows, epochs: int, steps: int) -> None:
        self._model, self._rows, self._epochs, self._steps = model, rows, epochs, steps
        self._recorder: Recorder | None = None
        self._copies: dict[int, Weights] = {}
        self.kept: dict[int, Weights] = {}  # epoch (from 1) to weights, of the trial that leads
        self.seconds = 0.0  # spent looking
        self._size = sum(int(np.prod(v.shape)) * 4 for v in model.weights)

    def begin(self) -> None:
        """A trial begins, its first weights in place."""
        begun = time.perf_counter()
        self._copies = {}
        if self._recorder is None:
            self._recorder = Recorder(self._model, self._rows.x, self._rows.y, self._rows.weight)
        else:
            self._recorder.begin()
        self.seconds += time.perf_counter() - begun

    def look(self, epoch: int) -> dict[str, Any] | None:
        """The layers after epoch `epoch` (from 1), on the epochs that are looked at."""
        begun = time.perf_counter()
        row = None
        if self._recorder is not None and due(epoch, self._epochs, self._steps):
            row = self._recorder.look(epoch)
        if self._copied(epoch):
            self._copies[epoch] = [v.value.numpy() for v in self._model.weights]
        self.seconds += time.perf_counter() - begun
        return row

    def final(self, epoch: int) -> dict[str, Any]:
        """The layers of the network as it stands now, that of epoch `epoch`, with histograms."""
        begun = time.perf_counter()
        if self._recorder is None:
            self._recorder = Recorder(self._model, self._rows.x, self._rows.y, self._rows.weight)
        row = self._recorder.look(epoch, final=True)
        self.seconds += time.perf_counter() - begun
        return {"epoch": epoch, **row}

    def leads(self) -> None:
        """The trial that just ended is the best so far."""
        self.kept = self._copies

    def _copied(self, epoch: int) -> bool:
        return self._size * COPIES <= COPIES_BYTES and epoch in copied_epochs(self._epochs)


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
