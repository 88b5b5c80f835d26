"""Pruning: end the trials of a search that are behind the others at the same epoch.

Trials train side by side, so the decision is made for all of them at once, among all that have reached this epoch;
Optuna's pruners decide for one trial at a time, in the order of their reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

REDUCTION = 3
RUNGS = 2  # before the last epoch: earlier than a ninth of it, the fastest to learn is not yet the best


def rungs(epochs: int) -> list[int]:
    """Return the epochs, from 1, after which trials are compared."""
    epochs_of_rungs = {max(1, round(epochs / REDUCTION**power)) for power in range(1, RUNGS + 1)}
    return sorted(epoch for epoch in epochs_of_rungs if epoch < epochs)


def behind(pruner: str, running: Mapping[int, float], before: list[float], larger_is_better: bool) -> dict[int, str]:
    """Return which of the running trials end at this rung, and why; `before` are the values of all others there."""
    sign = -1.0 if larger_is_better else 1.0
    usable = {trial: sign * value for trial, value in running.items() if math.isfinite(value)}
    values = sorted([*usable.values(), *(sign * value for value in before if math.isfinite(value))])
    if len(values) < REDUCTION:
        return {}
    survivors = math.ceil(len(values) / REDUCTION) if pruner == "asha" else (len(values) + 1) // 2
    limit, many = values[survivors - 1], len(values)
    return {
        trial: f"It was behind: place {1 + sum(other < value for other in values)} of {many}, and {survivors} go on."
        for trial, value in usable.items()
        if value > limit
    }


class EarlyEnd(keras.callbacks.Callback):
    """Ends a trial that is trained alone, where it is behind or the time is up."""

    def __init__(self, pruned: Callable[[], dict[int, str]], out_of_time: Callable[[], bool]) -> None:
        super().__init__()
        self._pruned, self._out_of_time = pruned, out_of_time
        self.why: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch and (why := self._pruned()):
            self.why, self.model.stop_training = next(iter(why.values())), True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._out_of_time():
            self.model.stop_training = True
