"""Common parts of all ways to train trials: setup, record of each trial, its file if another worker trained it.

A trial is one of several trainings within a run: a restart, the member of an ensemble, or a configuration of a search;
a run of kind `trial` trains one of them on another worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fitserve.states import FailureCause
from fitserve.strictjson import finite_json
from workers.trainer.engine import checkpoint
from workers.trainer.engine.checkpoint import Checkpoint, ReadingMode, Unusable
from workers.trainer.engine.compiled import Compiled, Logs
from workers.trainer.engine.gang import GangLeader
from workers.trainer.engine.initial_values import State
from workers.trainer.engine.kept_networks import KeptNetwork
from workers.trainer.engine.loop import Feed
from workers.trainer.engine.replica_settings import ReplicaSettings
from workers.trainer.engine.stacked_network import HeldOutRows, StackedNetwork
from workers.trainer.insight.recording import TrialRecorder
from workers.trainer.interface import Reporter, TrainingStopped

EpochWeights = dict[int, list[np.ndarray]]
"""Weights after an epoch (from 1), as from `get_weights`."""

OF_ANOTHER = "it belongs to another spec, dataset or release, or to a worker that does not stream where this one does"
_FILE_KIND = "apart"
ASK_AGAIN_SECONDS = 0.3  # while other workers train all that remain
_BETWEEN_RUNGS = 2.0  # seconds between two checkpoints that are written because trials were compared


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """Settings and data that all trials of a run share."""

    network: KeptNetwork
    feed: Callable[[int], Feed]  # by seed
    validation: Callable[[int], Feed | None]  # by seed
    epochs: int
    seeds: Sequence[int]
    # By seed: a new network like the compiled one, or its values; None: those that the compiled one begins with.
    initialise: Callable[[int], keras.Model | State | None]
    callbacks: Callable[[], list[keras.callbacks.Callback]]
    report: Reporter
    folder: Path
    # Of spec, data, release, and whether the rows are streamed, whose encoding is that of a sample: a checkpoint with
    # another one is not used.
    fingerprint: str
    reading: ReadingMode = "memory"
    checkpoint_seconds: float = 30.0
    monitor: str = "loss"
    larger_is_better: bool = False
    recorder: TrialRecorder | None = None
    # Builders of the optimizers that take over after an epoch (from 1), by that epoch.
    optimizers_after: Mapping[int, Callable[[], keras.optimizers.Optimizer]] = field(default_factory=dict)
    keep_epochs: tuple[int, ...] = ()  # from 1: their weights are kept besides the best ones
    ensemble: bool = False  # every trial is kept, rather than the best: they are members of one ensemble
    held_out: Callable[[], HeldOutRows | None] = lambda: None  # held-out rows of members that train stacked
    leader: GangLeader | None = None  # set if this process leads several that train the network together
    settings: ReplicaSettings | None = None  # hyperparameters of each trial's own, where they train stacked
    widths: tuple[int, ...] = ()  # stack widths, ascending: a search keeps traced stacks for its next trials
    # Says after an epoch (from 1) which of the running trials stop there, and why, in words.
    pruned: Callable[[int, Sequence[TrialRecord]], Mapping[int, str]] | None = None
    out_of_time: Callable[[], bool] = lambda: False  # asked after an epoch: all trials then end as they are
    compared: frozenset[int] = frozenset()  # epochs, from 1, at which a search decides: checkpoints follow them
    notes: Callable[[], Any] = lambda: None  # what a search adds to a checkpoint, as JSON, and takes back from it
    restore_notes: Callable[[Any], None] = lambda notes: None

    @property
    def compiled(self) -> Compiled:
        return self.network.compiled


@dataclass(slots=True)
class TrialRecord:
    """The course and result of one trial. `score` is the value of `monitor` at the weights that were kept."""

    index: int
    seed: int
    state: str = "running"  # then succeeded, failed, or pruned in a search
    epochs: int = 0
    best_epoch: int | None = None  # from 1: whose weights were kept
    monitor: str = "loss"
    score: float | None = None
    seconds: float = 0.0
    logs: dict[str, float] = field(default_factory=dict)  # logs of the last epoch
    failure: dict[str, Any] | None = None

    def finish(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Set the score, and the epoch whose weights EarlyStopping restored, of a trial that was not interrupted."""
        self.state = "succeeded"
        self.best_epoch, self.score = self.epochs, self.logs.get(self.monitor)
        for callback in callbacks:
            stopping = isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights
            if stopping and callback.best is not None and callback.best_weights is not None:
                self.best_epoch = int(callback.best_epoch) + 1
                self.score = float(callback.best) if callback.monitor == self.monitor else self.score
        if self.score is None or not np.isfinite(self.score):
            self.state, self.score = "failed", None
            self.failure = {
                "cause": FailureCause.diverged,
                "message": f"{self.monitor} is not a finite number at the end.",
            }

    def prune(self, why: str) -> None:
        """Record that a search stops the trial here, and why."""
        self.state, self.failure = "pruned", {"cause": "pruned", "message": why}

    def fail(self, report: Reporter, message: str, data: dict[str, Any]) -> None:
        """Record and report that the loss diverged."""
        self.state, self.failure = "failed", {"cause": FailureCause.diverged, "message": message, **data}
        report.event("warn", f"Trial {self.index + 1} failed. {message}", data)


def new_checkpoint_path(folder: Path) -> Path:
    """Return a name of its own for each checkpoint: the supervisor may still be reading the one before."""
    return folder / f"checkpoint-{time.monotonic_ns()}.npz"


def restore_stack(setup: TrialSetup, stack: StackedNetwork, kind: str, path: Path) -> Checkpoint | None:
    """Restore a stack's variables, and return its checkpoint of this kind.

    None where it is unusable; an event says why.
    """
    variables = {f"stack/{index}": variable for index, variable in enumerate(stack.variables)}
    try:
        loaded = Checkpoint.read(path)
        if loaded.body["fingerprint"] != setup.fingerprint or loaded.body["kind"] != kind:
            raise Unusable(OF_ANOTHER)
        if any(loaded.arrays[name].shape != tuple(variable.shape) for name, variable in variables.items()):
            raise Unusable("its variables are not this network's")
    except (Unusable, KeyError) as error:
        setup.report.event("warn", f"The last checkpoint cannot be used ({error}); training starts over.")
        return None
    for name, variable in variables.items():
        variable.assign(loaded.arrays[name])
    return loaded


def best_trial(trials: Sequence[TrialRecord], larger_is_better: bool) -> TrialRecord | None:
    """Return the best trial of those that succeeded, the first of equals."""
    scored = [trial for trial in trials if trial.score is not None]
    sign = -1.0 if larger_is_better else 1.0
    return min(scored, key=lambda trial: (sign * float(trial.score or 0.0), trial.index), default=None)


Weights = list[np.ndarray]
"""One network's weights, as from `get_weights`."""


@dataclass(frozen=True, slots=True)
class Members:
    """The members of an ensemble, all of them trained. `scores` are their losses on rows they were held back from."""

    weights: list[Weights]
    scores: list[float]
    epoch_weights: Mapping[int, list[Weights]] = field(default_factory=dict)  # after the epochs to keep
    snapshots: Mapping[int, list[Weights]] = field(default_factory=dict)  # after other epochs
    stacked: bool = False


@dataclass(slots=True)
class TrialsOutcome:
    """All trials of a run. The compiled model has the best one's weights."""

    trials: list[TrialRecord]
    best: int
    epoch_weights: EpochWeights = field(default_factory=dict)  # the best trial's weights after the epochs to keep
    members: Members | None = None  # where the trials are an ensemble
    weights: Mapping[int, Weights] = field(default_factory=dict)  # weights of a search's successful trials

    def spread(self) -> dict[str, float]:
        """Return minimum, maximum, mean and population standard deviation of the scores."""
        scores = [trial.score for trial in self.trials if trial.score is not None]
        return {name: float(getattr(np, name)(scores)) for name in ("min", "max", "mean", "std")}


@dataclass(frozen=True, slots=True)
class TrialFile:
    """A finished trial that another worker trained: one file, in the format of a checkpoint.

    It names its spec, rows and release, so that a run adopts only what it would have trained itself. The weights are
    empty if the trial failed.
    """

    trial: TrialRecord
    best: Mapping[str, np.ndarray] = field(default_factory=dict)  # as from `checkpoint.variables`
    epoch_weights: EpochWeights = field(default_factory=dict)
    snapshots: EpochWeights = field(default_factory=dict)  # as `TrialRecorder.best_snapshots`
    history: Sequence[float] = ()  # in a search, the searched metric by epoch; NaN where it was not finite

    def write(self, path: Path, fingerprint: str) -> None:
        """Write atomically and durably."""
        history = finite_json(self.history)
        body = {"kind": _FILE_KIND, "fingerprint": fingerprint, "trial": asdict(self.trial), "history": history}
        arrays = checkpoint.with_prefix("best", self.best)
        arrays |= checkpoint.epochs_to_arrays("kept", self.epoch_weights) | checkpoint.epochs_to_arrays(
            "copies", self.snapshots
        )
        Checkpoint(body, arrays).write(path)

    @classmethod
    def read(cls, path: Path, fingerprint: str, index: int) -> TrialFile:
        """Read trial `index`. Raises Unusable if the file is of any other trial."""
        file = Checkpoint.read(path)
        if file.body.get("kind") != _FILE_KIND or file.body.get("fingerprint") != fingerprint:
            raise Unusable(OF_ANOTHER)
        trial = TrialRecord(**file.body["trial"])
        if trial.index != index:
            raise Unusable(f"it is trial {trial.index + 1}")
        epoch_weights, snapshots = (checkpoint.epochs_from_arrays(group, file.arrays) for group in ("kept", "copies"))
        history = [np.nan if value is None else value for value in file.body.get("history") or ()]
        return cls(trial, checkpoint.under_prefix("best", file.arrays), epoch_weights, snapshots, history)


class ProgressMonitor:
    """Between two compiled calls: report progress, write a checkpoint when it is due, obey a stop."""

    def __init__(self, setup: TrialSetup, save: Callable[[int, int], None]) -> None:
        """`save` writes a checkpoint, given the epoch and the step (from 0) that come next."""
        self._report, self._save, self._compared = setup.report, save, setup.compared
        self._checkpoint_seconds = setup.checkpoint_seconds
        self._saved_at, self._reported_at = time.monotonic(), 0.0

    def check(self, epoch: int, step: int) -> None:
        """Raises TrainingStopped."""
        now = time.monotonic()
        if now - self._reported_at > 1.0:
            self._report.progress()
            self._reported_at = now
        reason = self._report.stop()
        rung = step == 0 and epoch in self._compared
        every = min(_BETWEEN_RUNGS, self._checkpoint_seconds) if rung else self._checkpoint_seconds
        if reason == "release" or (not reason and now - self._saved_at > every):
            self._save(epoch, step)
            self._saved_at = time.monotonic()
        if reason:
            raise TrainingStopped(reason)


class EpochReporter(keras.callbacks.Callback):
    """Reports the end of each epoch, with what the other callbacks added to its logs."""

    def __init__(self, trial: TrialRecord, setup: TrialSetup, keep: Callable[[int], None]) -> None:
        """`keep` is called with every epoch, from 1."""
        super().__init__()
        self._trial, self._setup, self._keep = trial, setup, keep
        self._began_at = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._began_at = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0}
        numbers.setdefault("learning_rate", learning_rate(self.model.optimizer))
        self._trial.epochs, self._trial.logs = epoch + 1, numbers
        self._keep(epoch + 1)
        seconds = time.perf_counter() - self._began_at
        recorder = self._setup.recorder
        layers = recorder.record(epoch + 1) if recorder is not None else None
        self._setup.report.epoch(self._trial.index, epoch + 1, numbers, seconds, layers)


class Optimizers:
    """A network's optimizers: the first, and those that take over after some epochs (from 1).

    Each is built and traced once for all trials.

    A trial begins with the first, in the state that it has now.
    """

    def __init__(self, compiled: Compiled, after: Mapping[int, Callable[[], keras.optimizers.Optimizer]]) -> None:
        self._compiled, self._make = compiled, after
        self._first = compiled.model.optimizer
        self._first_values = [variable.value.numpy() for variable in self._first.variables]
        self._later: dict[int, keras.optimizers.Optimizer] = {}
        self._later_values: dict[int, list[np.ndarray]] = {}

    def begin(self) -> None:
        """Go back to the first optimizer, in its initial state."""
        _assign(self._first, self._first_values)
        self._compiled.use_optimizer(self._first)

    def switch(self, epoch: int) -> bool:
        """Switch to the optimizer that takes over after this epoch. Returns False if there is none."""
        if epoch not in self._make:
            return False
        if epoch not in self._later:
            optimizer = self._later[epoch] = self._make[epoch]()
            optimizer.build(self._compiled.model.trainable_variables)
            self._later_values[epoch] = [variable.value.numpy() for variable in optimizer.variables]
        _assign(self._later[epoch], self._later_values[epoch])
        self._compiled.switch_optimizer(self._later[epoch])
        return True

    def resume(self, epoch: int) -> None:
        """Continue with the optimizer in use after `epoch` epochs."""
        self.begin()
        if passed := [after for after in self._make if after <= epoch]:
            self.switch(max(passed))


def _assign(optimizer: keras.optimizers.Optimizer, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(optimizer.variables, values, strict=True):
        variable.assign(value)


class OptimizerSwitcher(keras.callbacks.Callback):
    """Callback that switches optimizers after some epochs; callbacks waiting for an improvement start over."""

    def __init__(
        self, switch: Callable[[int], bool], waiting: Sequence[keras.callbacks.Callback], report: Reporter
    ) -> None:
        """`switch` goes on with the optimizer that follows an epoch (from 1), if any does, and says whether."""
        super().__init__()
        self._switch, self._waiting, self._report = switch, waiting, report

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if not self._switch(epoch + 1):
            return
        for callback in self._waiting:
            callback.wait = 0
            if isinstance(callback, keras.callbacks.ReduceLROnPlateau):
                callback.cooldown_counter = 0
        self.model.stop_training = False
        optimizer = self.model.optimizer
        name, rate = type(optimizer).__name__, learning_rate(optimizer)
        message = f"{name} with a learning rate of {rate:g} from epoch {epoch + 2} on."
        self._report.event("info", message, {"epoch": epoch + 2, "optimizer": name, "learning_rate": rate})


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the current learning rate, also of a schedule."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
