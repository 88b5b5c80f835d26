"""Train a run's trials as one stacked network, with Keras's callbacks for each replica, and keep the best one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fitserve.states import FailureCause
from workers.trainer.engine import checkpoint
from workers.trainer.engine.checkpoint import Checkpoint, Unusable
from workers.trainer.engine.compiled import Logs, RowTensors
from workers.trainer.engine.divergence import first_broken_layer
from workers.trainer.engine.executors import work
from workers.trainer.engine.stackable import stacking_obstacle
from workers.trainer.engine.stacked_network import StackedNetwork
from workers.trainer.insight.recording import StackedTrialRecorder
from workers.trainer.interface import TrainingFailed
from workers.trainer.trials.sequential import SequentialTrials
from workers.trainer.trials.trial import (
    EpochWeights,
    ProgressMonitor,
    TrialRecord,
    TrialSetup,
    TrialsOutcome,
    best_trial,
    new_checkpoint_path,
    restore_stack,
)

WORTH_TRACING = 3e9  # multiply-adds that a smaller stack must save to be worth tracing


def why_not_stacked(setup: TrialSetup) -> str | None:
    """Return why these trials must be trained one after the other; None if they can be stacked."""
    held_out = setup.validation(setup.seeds[0])
    feeds = [setup.feed(setup.seeds[0]), *([held_out] if held_out else [])]
    if not all(feed.resident for feed in feeds):
        return "the size of its data"
    if setup.compiled.compact is not None:
        return "its one-hot columns, which are stored as places,"
    if not setup.ensemble and any(
        isinstance(callback, keras.callbacks.ReduceLROnPlateau) for callback in setup.callbacks()
    ):
        return "a learning rate of each trial's own (ReduceLROnPlateau)"
    return stacking_obstacle(setup.compiled.model, len(setup.seeds), feeds[0].rows, setup.compiled.batch_size)


def _width(setup: TrialSetup, rows: int) -> int:
    """Return the number of replicas for the trials of a search: more than there are where a kept stack is then reused.

    Unless those without a trial are more work than tracing. By count, not by time: a search repeats exactly.
    """
    trials, size = len(setup.seeds), setup.compiled.batch_size
    if setup.settings is not None and len(setup.settings.optimizers) > trials:
        return len(setup.settings.optimizers)  # a trial that is reproduced, beside one that fills the stack
    wider = next((width for width in setup.widths if width >= trials), trials)
    idle = work(setup.compiled.model, size) * -(-rows // size) * setup.epochs * (wider - trials)
    return wider if setup.settings is not None and idle <= WORTH_TRACING else trials


class Replica:
    """One replica as a model for Keras's callbacks: the part of `keras.Model` that they use."""

    def __init__(self, stack: StackedNetwork, index: int) -> None:
        self.stop_training = False
        self.optimizer = stack.optimizer
        self.final_weights: list[NDArray[Any]] | None = None  # once it has stopped
        self._stack, self._index = stack, index

    @property
    def metrics(self) -> list[Any]:
        return list(self._stack.model.metrics)

    @property
    def weights(self) -> list[Any]:
        return list(self._stack.model.weights)

    def get_weights(self) -> list[NDArray[Any]]:
        return self._stack.weights(self._index)

    def move(self, index: int) -> None:
        """Update the replica's position in the stack."""
        self._index, self.optimizer = index, self._stack.optimizer

    def set_weights(self, weights: list[NDArray[Any]]) -> None:
        """Set the replica's weights. Only EarlyStopping calls this, to restore the best weights at the end."""
        self.final_weights = weights


class StackedTrials:
    """Trains all trials at once, from a checkpoint where there is one."""

    def __init__(self, setup: TrialSetup) -> None:
        self._setup = setup
        members = [setup.initialise(seed) for seed in setup.seeds]
        self._feeds = [setup.feed(seed) for seed in setup.seeds]
        self._rows = self._feeds[0].sample()
        idle = _width(setup, self._rows.count) - len(members)
        settings = setup.settings
        if settings is not None:
            filling = len(settings.optimizers) - 1 if len(settings.optimizers) > len(members) else 0
            settings = settings.of_some([*range(len(members)), *[filling] * idle])
        self._stack = setup.network.stack([*members, *members[:1] * idle], self._rows, settings)
        self._stacked = list(range(len(members)))  # the trials in the stack, in its order; idle replicas follow
        self._trials = [TrialRecord(i, seed, monitor=setup.monitor) for i, seed in enumerate(setup.seeds)]
        self._replicas = [Replica(self._stack, index) for index in range(len(members))]
        self._epoch_weights: list[EpochWeights] = [{} for _ in members]  # weights after the epochs to keep
        self._callbacks = [setup.callbacks() for _ in members]
        self._callback_lists = [
            keras.callbacks.CallbackList(own, model=replica, epochs=setup.epochs)
            for own, replica in zip(self._callbacks, self._replicas, strict=True)
        ]
        self._monitor = ProgressMonitor(setup, self._save)
        self._recorder: StackedTrialRecorder | None = None

    def run(self, resume: Path | None = None) -> TrialsOutcome:
        """Train all trials. Raises TrainingStopped, and TrainingFailed where every trial diverged."""
        setup = self._setup
        for callbacks in self._callback_lists:
            callbacks.on_train_begin()
        loaded = self._load_checkpoint(resume) if resume else None
        first = int(loaded.body["epoch"]) if loaded else 0
        held_out = setup.validation(setup.seeds[0])
        validation = held_out.sample() if held_out else None
        if setup.recorder is not None:
            self._recorder = StackedTrialRecorder(self._stack, self._rows, setup.recorder, first)
            self._recorder.restore(loaded.arrays if loaded else {})
        began_at = time.perf_counter()
        for epoch in range(first, setup.epochs):
            if not self._running():
                break
            self._run_epoch(epoch, validation)
            self._monitor.check(epoch + 1, 0)
            if setup.out_of_time():
                break
        for trial in self._running():
            self._finish(trial)
        if setup.pruned is None:
            for trial in self._trials:
                trial.seconds = (time.perf_counter() - began_at) / len(self._trials)
        if setup.pruned is not None:
            return self._all_that_ended()
        best = best_trial(self._trials, setup.larger_is_better)
        if best is None:
            raise self._failure()
        if self._recorder is not None:
            self._recorder.mark_best(best.index, best.epochs)
        setup.compiled.model.set_weights(self._replicas[best.index].final_weights)
        return TrialsOutcome(self._trials, best.index, self._epoch_weights[best.index])

    def _run_epoch(self, epoch: int, validation: RowTensors | None) -> None:
        running = self._running()
        for trial in running:
            if self._callbacks[trial.index]:  # even an empty callback list takes a third of a millisecond
                self._callback_lists[trial.index].on_epoch_begin(epoch)
        began_at = time.perf_counter()
        orders = [next(iter(self._feeds[trial].blocks(epoch))).order for trial in self._stacked]
        order = np.stack([*orders, *orders[:1] * (self._stack.replicas - len(orders))])
        logs = dict(zip(self._stacked, self._stack.epoch(self._rows, order, validation), strict=False))
        seconds = time.perf_counter() - began_at
        layers = self._recorder.record(epoch + 1) if self._recorder is not None else None
        rates = dict(zip(self._stacked, self._stack.learning_rates(), strict=False))
        for trial in running:
            own_logs = {"learning_rate": rates[trial.index], **logs[trial.index]}
            trial.seconds += seconds / len(running)
            self._end_epoch(trial, epoch, own_logs, seconds, layers[trial.index] if layers else None)
        if self._setup.pruned is not None:
            self._prune(epoch + 1)

    def _prune(self, epoch: int) -> None:
        """Stop trials that are not worth continuing; once half have ended, continue the rest in a smaller stack.

        The stack is not shrunk if the work left is less than tracing a smaller one. Work is counted, not timed, so that
        a search can be repeated exactly.
        """
        assert self._setup.pruned is not None
        for index, why in self._setup.pruned(epoch, self._running()).items():
            self._callback_lists[index].on_train_end(self._trials[index].logs)
            self._trials[index].prune(why)
        running = [trial.index for trial in self._running()]
        steps = -(-self._rows.count // self._setup.compiled.batch_size)
        left = steps * (self._setup.epochs - epoch) * (len(self._stacked) - len(running))
        spared = left * work(self._setup.compiled.model, self._setup.compiled.batch_size)
        if running and len(running) <= len(self._stacked) / 2 and spared > WORTH_TRACING:
            self._keep(running)

    def _keep(self, trials: list[int]) -> None:
        """Shrink the stack to these trials."""
        if trials == self._stacked:
            return
        self._stack.keep([self._stacked.index(trial) for trial in trials])
        self._stacked = trials
        for position, trial in enumerate(trials):
            self._replicas[trial].move(position)

    def _end_epoch(
        self, trial: TrialRecord, epoch: int, logs: Logs, seconds: float, layers: dict[str, Any] | None
    ) -> None:
        replica = self._replicas[trial.index]
        if not np.isfinite(logs["loss"]):
            layer = first_broken_layer(self._stack.model, replica.get_weights())
            message = f"The loss became {logs['loss']} in epoch {epoch + 1}: first in layer {layer!r} (weights)."
            trial.fail(self._setup.report, message, {"epoch": epoch + 1, "layer": layer, "what": "weights"})
            return
        if self._callbacks[trial.index]:
            self._callback_lists[trial.index].on_epoch_end(epoch, logs)
        trial.epochs, trial.logs = epoch + 1, logs
        if epoch + 1 in self._setup.keep_epochs:
            self._epoch_weights[trial.index][epoch + 1] = replica.get_weights()
        self._setup.report.epoch(trial.index, epoch + 1, logs, seconds, layers)
        if replica.stop_training:
            self._finish(trial)

    def _finish(self, trial: TrialRecord) -> None:
        replica = self._replicas[trial.index]
        self._callback_lists[trial.index].on_train_end(trial.logs)
        replica.final_weights = replica.final_weights or replica.get_weights()
        trial.finish(self._callbacks[trial.index])

    def _running(self) -> list[TrialRecord]:
        return [trial for trial in self._trials if trial.state == "running"]

    def _all_that_ended(self) -> TrialsOutcome:
        """Return the trials of a search, even if all of them failed: the search decides what is best."""
        best = best_trial(self._trials, self._setup.larger_is_better)
        weights = {trial.index: self._replicas[trial.index].final_weights for trial in self._trials}
        finished = {index: own for index, own in weights.items() if own is not None}
        return TrialsOutcome(self._trials, best.index if best else 0, weights=finished)

    def _failure(self) -> TrainingFailed:
        """Train the first trial again by itself, which finds the step and the layer where it diverged."""
        alone = SequentialTrials(replace(self._setup, seeds=self._setup.seeds[:1]))
        outcome = alone.run()  # usually raises TrainingFailed with more detail than we have here
        failure = self._trials[0].failure or {}
        return TrainingFailed(FailureCause.diverged, str(failure.get("message") or outcome.trials[0].failure), failure)

    # --- checkpoints ------------------------------------------------------------------------------------

    def _save(self, epoch: int, step: int) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        states = []
        for index, own in enumerate(self._callbacks):
            state, best_weights = checkpoint.callback_state(own)
            states.append(state)
            final_weights = {str(place): w for place, w in enumerate(self._replicas[index].final_weights or [])}
            arrays |= checkpoint.with_prefix(f"replica{index}", best_weights)
            arrays |= checkpoint.with_prefix(f"kept{index}", final_weights)
            arrays |= checkpoint.epochs_to_arrays(f"epochs{index}", self._epoch_weights[index])
        arrays |= {f"stack/{place}": variable.value.numpy() for place, variable in enumerate(self._stack.variables)}
        body = {
            "kind": "stacked",
            "fingerprint": self._setup.fingerprint,
            "epoch": epoch,
            "callbacks": states,
            "trials": [asdict(trial) for trial in self._trials],
            "stacked": self._stacked,
            "notes": self._setup.notes(),
        }
        if self._recorder is not None:
            arrays |= self._recorder.arrays()
        path = new_checkpoint_path(self._setup.folder)
        Checkpoint(body, arrays).write(path)
        self._setup.report.checkpoint(path, epoch)

    def _load_checkpoint(self, path: Path) -> Checkpoint | None:
        """Restore a checkpoint of this run. None if it is unusable: training then starts over."""
        report = self._setup.report
        with contextlib.suppress(Unusable, KeyError, IndexError):
            self._keep(list(Checkpoint.read(path).body["stacked"]))
        loaded = restore_stack(self._setup, self._stack, "stacked", path)
        if loaded is None:
            return None
        self._trials = [TrialRecord(**trial) for trial in loaded.body["trials"]]
        self._setup.restore_notes(loaded.body.get("notes"))
        for index, state in enumerate(loaded.body["callbacks"]):
            best_weights = checkpoint.under_prefix(f"replica{index}", loaded.arrays)
            checkpoint.restore_callbacks(self._callbacks[index], self._stack.model, state, best_weights)
            final_weights = checkpoint.under_prefix(f"kept{index}", loaded.arrays)
            self._replicas[index].final_weights = [
                final_weights[str(place)] for place in range(len(final_weights))
            ] or None
            self._epoch_weights[index] = checkpoint.epochs_from_arrays(f"epochs{index}", loaded.arrays)
        epoch = int(loaded.body["epoch"])
        report.event("info", f"Resumed at epoch {epoch + 1}.", {"epoch": epoch})
        return loaded
