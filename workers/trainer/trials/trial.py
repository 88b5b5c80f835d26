"""A trial and how it fared, and what is made of all trials of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

Kept = dict[int, list[np.ndarray]]
"""Weights after an epoch (from 1), as `get_weights` gives them."""


@dataclass(slots=True)
class Trial:
    """How one network fared. `score` is `monitor`'s value at the weights that were kept."""

    index: int
    seed: int
    state: str = "running"  # then succeeded or failed
    epochs: int = 0
    best_epoch: int | None = None  # from 1: whose weights were kept
    monitor: str = "loss"
    score: float | None = None
    seconds: float = 0.0
    logs: dict[str, float] = field(default_factory=dict)  # of the last epoch
    failure: dict[str, Any] | None = None


@dataclass(slots=True)
class Outcome:
    """All trials; the compiled model has the best one's weights. `kept` are its weights after the epochs to keep."""

    trials: list[Trial]
    best: int
    kept: Kept = field(default_factory=dict)

    def spread(self) -> dict[str, float]:
        """Of the scores of the trials that succeeded: min, max, mean and standard deviation (population)."""
        scores = [trial.score for trial in self.trials if trial.score is not None]
        return {
            "min": float(np.min(scores)),
            "max": float(np.max(scores)),
            "mean": float(np.mean(scores)),
            "std": float(np.std(scores)),
        }


def judge(trial: Trial, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """A trial that reached its end: its score, and the epoch whose weights it kept."""
    trial.state = "succeeded"
    trial.best_epoch, trial.score = trial.epochs, trial.logs.get(trial.monitor)
    for callback in callbacks:
        stopping = isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights
        if stopping and callback.best is not None and callback.best_weights is not None:
            trial.best_epoch = int(callback.best_epoch) + 1
            trial.score = float(callback.best) if callback.monitor == trial.monitor else trial.score
    if trial.score is None or not np.isfinite(trial.score):
        trial.state, trial.score = "failed", None
        trial.failure = {"cause": "diverged", "message": f"{trial.monitor} is not a finite number at the end."}


def leader(trials: Sequence[Trial], larger_is_better: bool) -> Trial | None:
    """The best trial of those that succeeded, the first of equals."""
    done = [trial for trial in trials if trial.score is not None]
    sign = -1.0 if larger_is_better else 1.0
    return min(done, key=lambda trial: (sign * float(trial.score or 0.0), trial.index)) if done else None
