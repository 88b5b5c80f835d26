"""A run's trials, one after the other: each from its own initial weights, the best on validation kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from workers.trainer import checkpoint
from workers.trainer.checkpoint import Checkpoint, Unusable
from workers.trainer.compiled import Compiled, Logs
from workers.trainer.divergence import Diverged, Guard
from workers.trainer.feed import Feed
from workers.trainer.insight.watch import Watch
from workers.trainer.job import Reporter, TrainingFailed, TrainingStopped
from workers.trainer.loop import Loop, Position

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


@dataclass(frozen=True, slots=True)
class Course:
    """What all trials of a run share."""

    compiled: Compiled
    feed: Callable[[int], Feed]  # by seed
    validation: Feed | None
    epochs: int
    seeds: Sequence[int]
    initialise: Callable[[int], keras.Model]  # a fresh network by seed, like the compiled one
    callbacks: Callable[[], list[keras.callbacks.Callback]]
    report: Reporter
    folder: Path
    fingerprint: str  # of spec and data: a checkpoint of something else is not taken up
    checkpoint_seconds: float = 30.0
    monitor: str = "loss"
    larger_is_better: bool = False
    watch: Watch | None = None  # looks into the network between epochs
    keep_epochs: tuple[int, ...] = ()  # from 1: their weights are kept beside the best

    def alone(self) -> Course:
        """The first trial by itself."""
        return replace(self, seeds=self.seeds[:1])


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
    return min(done, key=lambda trial: sign * float(trial.score or 0.0)) if done else None


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


class Runner:
    """Runs the trials of a course, from a checkpoint where there is one."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._model = course.compiled.model
        self._blank = [v.value.numpy() for v in self._model.optimizer.variables]
        self._trials: list[Trial] = []
        self._best: dict[str, np.ndarray] = {}
        self._kept: Kept = {}  # of the trial at hand
        self._best_kept: Kept = {}
        self._callbacks: list[keras.callbacks.Callback] = []
        self._lookout = Lookout(course.report, course.checkpoint_seconds, self._save)

    def run(self, resume: Path | None = None) -> Outcome:
        """Raises TrainingStopped, and TrainingFailed where every trial diverged."""
        begin = self._resumed(resume) if resume else None
        first = len(self._trials) - (1 if begin else 0)
        for index in range(first, len(self._course.seeds)):
            self._trial(index, begin)
            begin = None
        best = self._leader()
        if best is None:
            failure = self._trials[0].failure or {}
            raise TrainingFailed("diverged", str(failure.get("message")), failure)
        checkpoint.restore(self._model, self._best)
        return Outcome(self._trials, best.index, self._best_kept)

    # --- one trial ------------------------------------------------------------------------------

    def _trial(self, index: int, begin: Checkpoint | None) -> None:
        course, seed = self._course, self._course.seeds[index]
        trial = self._trials[index] if begin else Trial(index, seed, monitor=course.monitor)
        if not begin:
            self._trials.append(trial)
            self._kept = {}
            self._start(seed)
        if course.watch is not None:
            course.watch.begin(begin.body["epoch"] if begin else 0)
        feed = course.feed(seed)
        self._callbacks = course.callbacks()
        reporting = _Report(trial, course.report, course.watch, self._keep)
        callbacks = [Guard(course.compiled, feed), *self._callbacks, reporting]
        position = Position(begin.body["epoch"], begin.body["step"]) if begin else Position()
        loop = Loop(
            course.compiled,
            feed,
            course.validation,
            course.epochs,
            callbacks,
            look=self._lookout.look,
            position=position,
            begun=(lambda: self._restore(begin)) if begin else (lambda: None),
        )
        begun = time.perf_counter() - trial.seconds
        try:
            loop.run()
        except Diverged as diverged:
            trial.state, trial.failure = "failed", {"cause": "diverged", "message": str(diverged), **diverged.data}
            course.report.event("warn", f"Trial {index + 1} failed. {diverged}", diverged.data)
        else:
            self._finish(trial)
        trial.seconds = time.perf_counter() - begun

    def _start(self, seed: int) -> None:
        """The first trial trains the compiled network itself; the others start it anew from their own weights."""
        for variable, value in zip(self._model.optimizer.variables, self._blank, strict=True):
            variable.assign(value)
        fresh = self._course.initialise(seed)
        if fresh is not self._model:
            for mine, new in zip(_state(self._model), _state(fresh), strict=True):
                mine.assign(new.value)

    def _finish(self, trial: Trial) -> None:
        judge(trial, self._callbacks)
        if trial.score is not None and self._leader() is trial:
            self._best, self._best_kept = checkpoint.variables(self._model), self._kept
            if self._course.watch is not None:
                self._course.watch.leads()

    def _keep(self, epoch: int) -> None:
        """The network as it would be had training ended here: some optimizers then put averages into the weights."""
        if epoch not in self._course.keep_epochs:
            return
        now = [variable.value.numpy() for variable in self._model.trainable_weights]
        self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        self._kept[epoch] = self._model.get_weights()
        for variable, value in zip(self._model.trainable_weights, now, strict=True):
            variable.assign(value)

    def _leader(self) -> Trial | None:
        return leader(self._trials, self._course.larger_is_better)

    # --- checkpoints --------------------------------------------------------------------------------

    def _save(self, epoch: int, step: int) -> None:
        states, arrays = checkpoint.callback_state(self._callbacks)
        body = {
            "kind": "sequential",
            "fingerprint": self._course.fingerprint,
            "epoch": epoch,
            "step": step,
            "stopping": bool(self._model.stop_training),
            "callbacks": states,
            "trials": [asdict(trial) for trial in self._trials],
        }
        best = {f"best/{name}": value for name, value in self._best.items()}
        best |= checkpoint.of_epochs("kept", self._kept) | checkpoint.of_epochs("best_kept", self._best_kept)
        path = self._course.folder / "checkpoint.npz"
        Checkpoint(body, {**checkpoint.variables(self._model), **arrays, **best}).write(path)
        self._course.report.checkpoint(path, epoch)

    def _resumed(self, path: Path) -> Checkpoint | None:
        """The checkpoint, if it is one of this run; else None, and the run begins anew."""
        try:
            found = Checkpoint.read(path)
            if found.body["fingerprint"] != self._course.fingerprint or found.body["kind"] != "sequential":
                raise Unusable("it belongs to another spec, dataset or release")
            checkpoint.restore(self._model, found.arrays)
        except Unusable as why:
            self._course.report.event("warn", f"The last checkpoint cannot be used ({why}); training begins anew.")
            return None
        self._trials = [Trial(**trial) for trial in found.body["trials"]]
        self._best = {n.removeprefix("best/"): a for n, a in found.arrays.items() if n.startswith("best/")}
        self._kept = checkpoint.by_epoch("kept", found.arrays)
        self._best_kept = checkpoint.by_epoch("best_kept", found.arrays)
        place = f"epoch {found.body['epoch'] + 1}"
        if len(self._course.seeds) > 1:
            place = f"trial {len(self._trials)}, {place}"
        self._course.report.event(
            "info", f"Resumed at {place}.", {"trial": len(self._trials) - 1, "epoch": found.body["epoch"]}
        )
        return found

    def _restore(self, begin: Checkpoint) -> None:
        checkpoint.restore_callbacks(self._callbacks, self._model, begin.body["callbacks"], begin.arrays)
        self._model.stop_training = begin.body["stopping"]


class _Report(keras.callbacks.Callback):
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


def _state(model: keras.Model) -> list[Any]:
    """Weights, batch statistics and the states of random generators, without the optimizer's and metrics'."""
    return [*model.trainable_variables, *model.non_trainable_variables]
