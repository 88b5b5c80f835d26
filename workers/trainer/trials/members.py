"""Train the members of an ensemble as one stacked network, each on its own rows, with one best epoch for all of them.

The figures of an epoch are those of all members' rows together. With folds, every row is predicted by the one member
that was held back from it, so `val_loss` is the out-of-fold loss; EarlyStopping and ReduceLROnPlateau watch it as they
would watch a single network's.
"""

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
from workers.trainer.engine.stacked_network import StackedNetwork
from workers.trainer.insight.recording import StackedTrialRecorder
from workers.trainer.interface import TrainingFailed
from workers.trainer.trials.sequential import SequentialTrials
from workers.trainer.trials.trial import (
    Members,
    OptimizerSwitcher,
    ProgressMonitor,
    TrialRecord,
    TrialSetup,
    TrialsOutcome,
    Weights,
    learning_rate,
    new_checkpoint_path,
    restore_stack,
)


class MembersAsModel:
    """All members as one model for Keras's callbacks: the part of `keras.Model` that they use."""

    def __init__(self, stack: StackedNetwork) -> None:
        self.stop_training = False
        self.optimizer = stack.optimizer
        self._stack = stack

    @property
    def metrics(self) -> list[Any]:
        return list(self._stack.model.metrics)

    @property
    def weights(self) -> list[Any]:
        return self._stack.stacked_weights

    def switch(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Continue all members with another optimizer."""
        if optimizer is not self.optimizer:
            self._stack.switch_optimizer(optimizer)
            self.optimizer = optimizer

    def get_weights(self) -> Weights:
        return [variable.value.numpy() for variable in self.weights]

    def set_weights(self, weights: Weights) -> None:
        self._stack.assign(weights)


class StackedMembers:
    """Trains all members at once, from a checkpoint where there is one."""

    def __init__(self, setup: TrialSetup) -> None:
        self._setup = setup
        members = [setup.initialise(seed) for seed in setup.seeds]
        self._feeds = [setup.feed(seed) for seed in setup.seeds]
        self._rows = self._feeds[0].sample()
        self._held_out = setup.held_out()
        self._stack = setup.network.stack(members, self._rows, None)
        self._as_model = MembersAsModel(self._stack)
        self._callbacks = setup.callbacks()
        self._callback_list = keras.callbacks.CallbackList(self._callbacks, model=self._as_model, epochs=setup.epochs)
        self._switcher = OptimizerSwitcher(self._switch, self._callbacks, setup.report)
        self._switcher.set_model(self._as_model)
        self._trial = TrialRecord(0, setup.seeds[0], monitor=setup.monitor)
        self._losses: list[list[float]] = []  # every member's losses by epoch
        self._epoch_weights: dict[int, list[Weights]] = {}
        self._monitor = ProgressMonitor(setup, self._save)
        self._recorder: StackedTrialRecorder | None = None

    def run(self, resume: Path | None = None) -> TrialsOutcome:
        """Train all members. Raises TrainingStopped, and TrainingFailed where one of them diverged."""
        setup, trial = self._setup, self._trial
        self._callback_list.on_train_begin()
        loaded = self._load_checkpoint(resume) if resume else None
        first = int(loaded.body["epoch"]) if loaded else 0
        trial = self._trial
        if setup.recorder is not None:
            self._recorder = StackedTrialRecorder(self._stack, self._rows, setup.recorder, first)
            self._recorder.restore(loaded.arrays if loaded else {})
        began_at = time.perf_counter() - trial.seconds
        for epoch in range(first, setup.epochs):
            if self._as_model.stop_training:
                break
            self._run_epoch(epoch)
            trial.seconds = time.perf_counter() - began_at
            self._monitor.check(epoch + 1, 0)
        self._callback_list.on_train_end(trial.logs)
        trial.finish(self._callbacks)
        if trial.score is None:
            raise TrainingFailed(FailureCause.diverged, str((trial.failure or {}).get("message")), trial.failure)
        best = int(trial.best_epoch or trial.epochs)
        weights = [self._stack.weights(member) for member in range(self._stack.replicas)]
        snapshots = self._recorder.snapshots(trial.epochs) if self._recorder is not None else {}
        setup.compiled.model.set_weights(weights[0])
        members = Members(weights, self._losses[best - 1], self._epoch_weights, snapshots, stacked=True)
        return TrialsOutcome([trial], 0, members=members)

    def _run_epoch(self, epoch: int) -> None:
        self._callback_list.on_epoch_begin(epoch)
        began_at = time.perf_counter()
        order = np.stack([next(iter(feed.blocks(epoch))).order for feed in self._feeds])
        pooled, losses = self._stack.pooled_epoch(self._rows, order, self._held_out)
        seconds = time.perf_counter() - began_at
        self._refuse_divergence(epoch, losses)
        logs = {"learning_rate": learning_rate(self._stack.optimizer), **pooled}
        layers = self._recorder.record(epoch + 1) if self._recorder is not None else None
        self._trial.epochs, self._trial.logs = epoch + 1, logs
        self._losses.append([float(loss) for loss in losses])
        self._callback_list.on_epoch_end(epoch, logs)
        if epoch + 1 in self._setup.keep_epochs:
            self._epoch_weights[epoch + 1] = [self._stack.weights(member) for member in range(self._stack.replicas)]
        self._setup.report.epoch(0, epoch + 1, logs, seconds, layers[0] if layers else None)
        self._switcher.on_epoch_end(epoch)

    def _switch(self, epoch: int) -> bool:
        """Switch to the optimizer that takes over after this epoch (from 1), if there is one."""
        make = self._setup.optimizers_after.get(epoch)
        if make is not None:
            self._as_model.switch(make())
        return make is not None

    def _refuse_divergence(self, epoch: int, losses: NDArray[np.float64]) -> None:
        """Train a member that diverged again by itself, which finds the step and the layer. Raises TrainingFailed."""
        if np.isfinite(losses).all():
            return
        member = int(np.flatnonzero(~np.isfinite(losses))[0])
        setup = replace(self._setup, seeds=[self._setup.seeds[member]], ensemble=False, recorder=None, keep_epochs=())
        outcome = SequentialTrials(setup).run()  # usually raises TrainingFailed with more detail than we have here
        message = f"The loss of member {member + 1} became {losses[member]} in epoch {epoch + 1}."
        failure = {"cause": FailureCause.diverged, "message": message, "epoch": epoch + 1, "member": member}
        raise TrainingFailed(FailureCause.diverged, message, outcome.trials[0].failure or failure)

    # --- checkpoints ------------------------------------------------------------------------------------

    def _save(self, epoch: int, step: int) -> None:
        states, best_weights = checkpoint.callback_state(self._callbacks)
        arrays = dict(best_weights)
        arrays |= {f"stack/{index}": variable.value.numpy() for index, variable in enumerate(self._stack.variables)}
        for member in range(self._stack.replicas):
            of_member = {number: weights[member] for number, weights in self._epoch_weights.items()}
            arrays |= checkpoint.epochs_to_arrays(f"epochs{member}", of_member)
        body = {
            "kind": "members",
            "fingerprint": self._setup.fingerprint,
            "epoch": epoch,
            "stopping": self._as_model.stop_training,
            "callbacks": states,
            "losses": self._losses,
            "trial": asdict(self._trial),
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
        first = self._as_model.optimizer
        with contextlib.suppress(Unusable, KeyError):
            epoch = Checkpoint.read(path).body["epoch"]
            self._switch(max((after for after in self._setup.optimizers_after if after <= epoch), default=0))
        loaded = restore_stack(self._setup, self._stack, "members", path)
        if loaded is None:
            self._as_model.switch(first)
            return None
        self._trial = TrialRecord(**loaded.body["trial"])
        self._losses = loaded.body["losses"]
        self._setup.restore_notes(loaded.body.get("notes"))
        self._as_model.stop_training = loaded.body["stopping"]
        checkpoint.restore_callbacks(self._callbacks, self._as_model, loaded.body["callbacks"], loaded.arrays)
        by_member = [
            checkpoint.epochs_from_arrays(f"epochs{member}", loaded.arrays) for member in range(self._stack.replicas)
        ]
        self._epoch_weights = {epoch: [own[epoch] for own in by_member] for epoch in by_member[0]}
        epoch = int(loaded.body["epoch"])
        report.event("info", f"Resumed at epoch {epoch + 1}.", {"epoch": epoch})
        return loaded
