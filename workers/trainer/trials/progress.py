"""What a trial says and hears while it trains: signs of life, orders to stop, checkpoints, epochs."""

from __future__ import annotations

import time
from collections.abc import Callable

import keras
import numpy as np

from workers.trainer.engine.compiled import Logs
from workers.trainer.insight.trial_recorder import Watch
from workers.trainer.job import Reporter, TrainingStopped
from workers.trainer.trials.trial import Trial


class Lookout:
    """What happens between two compiled calls: signs of life, orders to stop, checkpoints."""

    def __init__(self, report: Reporter, checkpoint_seconds: float, save: Callable[[int, int], None]) -> None:
        self._report, self._seconds, self._save = report, checkpoint_seconds, save
        self._saved, self._told = time.monotonic(), 0.0

    def look(self, epoch: int, step: int) -> None:
        """Raises TrainingStopped."""
        now = time.monotonic()
        if now - self._told > 1.0:
            self._report.progress()
            self._told = now
        why = self._report.stop()
        if why == "hand_back" or (not why and now - self._saved > self._seconds):
            self._save(epoch, step)
            self._saved = time.monotonic()
        if why:
            raise TrainingStopped(why)


class Report(keras.callbacks.Callback):
    """Says that an epoch ended, with what the other callbacks added to its logs."""

    def __init__(self, trial: Trial, report: Reporter, watch: Watch | None, keep: Callable[[int], None]) -> None:
        super().__init__()
        self._trial, self._report, self._watch, self._begun = trial, report, watch, 0.0
        self._keep = keep

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0}
        numbers.setdefault("learning_rate", rate_of(self.model.optimizer))
        self._trial.epochs, self._trial.logs = epoch + 1, numbers
        self._keep(epoch + 1)
        seconds = time.perf_counter() - self._begun
        layers = self._watch.look(epoch + 1) if self._watch is not None else None
        self._report.epoch(self._trial.index, epoch + 1, numbers, seconds, layers)


def rate_of(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate at this moment, of a schedule too."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
