"""Train a run's trials one after the other, each from its own initial weights, and keep the best on validation.

The members of an ensemble are trials too, each with its own rows; all of them are kept. Other workers may train some
trials: before each one the supervisor says which is next, and hands over finished ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from fitserve.states import FailureCause
from workers.trainer.engine import checkpoint
from workers.trainer.engine.checkpoint import Checkpoint, Unusable
from workers.trainer.engine.divergence import Diverged, DivergenceGuard
from workers.trainer.engine.initial_values import state_of
from workers.trainer.engine.loop import Loop, Position
from workers.trainer.interface import TrainingFailed, TrainingResult, TrialAssignment
from workers.trainer.trials.trial import (
    ASK_AGAIN_SECONDS,
    OF_ANOTHER,
    EpochReporter,
    EpochWeights,
    Members,
    Optimizers,
    OptimizerSwitcher,
    ProgressMonitor,
    TrialFile,
    TrialRecord,
    TrialSetup,
    TrialsOutcome,
    Weights,
    best_trial,
    new_checkpoint_path,
)

_LOGS = "logs"  # arrays of a checkpoint: an epoch's training results, if only its validation remains


class SequentialTrials:
    """Trains trials one after the other, from a checkpoint where there is one."""

    def __init__(self, setup: TrialSetup) -> None:
        self._setup = setup
        self._model = setup.compiled.model
        self._optimizers = Optimizers(setup.compiled, setup.optimizers_after)
        self._trials: list[TrialRecord] = []
        self._best: dict[str, np.ndarray] = {}
        self._epoch_weights: EpochWeights = {}  # the current trial's weights by epoch
        self._best_epoch_weights: EpochWeights = {}
        self._members: dict[int, Weights] = {}  # an ensemble's weights by trial
        self._members_epoch_weights: dict[int, EpochWeights] = {}
        self._callbacks: list[keras.callbacks.Callback] = []
        self._saved_position: tuple[int, int, int] | None = None
        self._position = Position()  # position in the current trial
        self._monitor = ProgressMonitor(setup, self._save)

    def run(self, resume: Path | None = None) -> TrialsOutcome:
        """Train all trials. Raises TrainingStopped, and TrainingFailed where every trial diverged."""
        self._resume(resume)
        while remaining := self._remaining():
            self._run_next(remaining)
        self._trials.sort(key=lambda trial: trial.index)
        best = self._best_trial()
        if best is None:
            failure = self._trials[0].failure or {}
            raise TrainingFailed(FailureCause.diverged, str(failure.get("message")), failure)
        checkpoint.restore_network(self._model, self._best)
        members = self._all_members() if self._setup.ensemble else None
        return TrialsOutcome(self._trials, best.index, self._best_epoch_weights, members)

    def _all_members(self) -> Members:
        """Return the ensemble of all trials. Raises TrainingFailed where one of them failed."""
        for trial in self._trials:
            if trial.index not in self._members:
                failure = trial.failure or {}
                message = f"Member {trial.index + 1} of the ensemble failed. {failure.get('message')}"
                raise TrainingFailed(FailureCause.diverged, message, failure)
        members = sorted(self._members)
        in_all = set.intersection(*(set(self._members_epoch_weights[member]) for member in members))
        return Members(
            [self._members[member] for member in members],
            [float(trial.score or 0.0) for trial in self._trials],
            {epoch: [self._members_epoch_weights[member][epoch] for member in members] for epoch in sorted(in_all)},
        )

    def _keep_member(
        self, index: int, weights: EpochWeights, variables: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Keep a trial as a member: its weights are the model's, or those among these variables."""
        if not self._setup.ensemble:
            return
        if variables is None:
            self._members[index] = self._model.get_weights()
        else:
            own = checkpoint.variables(self._model)
            checkpoint.restore_network(self._model, variables)
            self._members[index] = self._model.get_weights()
            checkpoint.restore_network(self._model, own)
        self._members_epoch_weights[index] = weights

    def run_divided(self, index: int, resume: Path | None = None) -> TrainingResult:
        """Train one trial, for a run that another worker holds. Raises TrainingStopped."""
        self._resume(resume)
        if not self._trials:
            self._run_trial(index)
        (trial,) = self._trials
        snapshots = self._setup.recorder.best_snapshots if self._setup.recorder is not None else {}
        path = self._setup.folder / "trial.npz"
        TrialFile(trial, self._best, self._best_epoch_weights, snapshots).write(path, self._setup.fingerprint)
        return TrainingResult({"trial": path}, {}, {"epochs": trial.epochs, "trials": [asdict(trial)]})

    def _resume(self, path: Path | None) -> None:
        """Restore a checkpoint, and finish the trial that it interrupted; it may have been written between two."""
        resumed = self._load_checkpoint(path) if path else None
        running = self._running()
        if resumed is not None and running is not None:
            self._run_trial(running.index, resumed)

    # --- other workers ----------------------------------------------------------------------------------

    def _remaining(self) -> list[int]:
        known = {trial.index for trial in self._trials}
        return [index for index in range(len(self._setup.seeds)) if index not in known]

    def _run_next(self, remaining: list[int]) -> None:
        if len(self._setup.seeds) == 1:
            assignment = TrialAssignment(remaining[0])
        else:
            assignment = self._setup.report.next_trial(remaining)
        for index, path in assignment.finished.items():
            if not self._adopt(index, path):
                self._run_trial(index)
        if assignment.trial is not None:
            self._run_trial(assignment.trial, self._load_begun(assignment.trial, assignment.checkpoint))
        elif not assignment.finished:
            self._monitor.check(0, 0)
            time.sleep(ASK_AGAIN_SECONDS)

    def _adopt(self, index: int, path: Path) -> bool:
        """Adopt a trial that another worker trained. Returns False if its file is unusable."""
        setup = self._setup
        try:
            file = TrialFile.read(path, setup.fingerprint, index)
        except Unusable as error:
            setup.report.event("warn", f"The file of trial {index + 1} is unusable ({error}); it is trained again.")
            return False
        self._trials.append(file.trial)
        if (failure := file.trial.failure) is not None:
            setup.report.event("warn", f"Trial {index + 1} failed. {failure.get('message')}", failure)
        else:
            self._keep_member(index, file.epoch_weights, file.best)
        if self._best_trial() is file.trial:
            self._best, self._best_epoch_weights = dict(file.best), file.epoch_weights
            if setup.recorder is not None:
                setup.recorder.mark_best(file.snapshots)
        return True

    def _load_begun(self, index: int, path: Path | None) -> Checkpoint | None:
        """Restore another worker's checkpoint of a trial. None if there is none: the trial then starts over."""
        if path is None:
            return None
        try:
            loaded = self._restore(path)
        except Unusable:
            return None
        trials = [TrialRecord(**trial) for trial in loaded.body["trials"]]
        if [(trial.index, trial.state) for trial in trials] != [(index, "running")]:
            return None
        self._trials += trials
        self._epoch_weights = checkpoint.epochs_from_arrays("kept", loaded.arrays)
        self._report_resumed(loaded)
        return loaded

    # --- one trial --------------------------------------------------------------------------------------

    def _running(self) -> TrialRecord | None:
        return next((trial for trial in self._trials if trial.state == "running"), None)

    def _run_trial(self, index: int, resumed: Checkpoint | None = None) -> None:
        setup, seed = self._setup, self._setup.seeds[index]
        trial = (self._running() if resumed else None) or TrialRecord(index, seed, monitor=setup.monitor)
        if not resumed:
            self._trials.append(trial)
            self._epoch_weights = {}
            self._initialise(seed)
        if setup.recorder is not None:
            setup.recorder.begin(resumed.body["epoch"] if resumed else 0)
            setup.recorder.restore(resumed.arrays if resumed else {})
        self._position = _position_in(resumed) if resumed else Position()
        feed = setup.feed(seed)
        self._callbacks = setup.callbacks()
        reporter = EpochReporter(trial, setup, self._keep_epoch)
        guard = DivergenceGuard(setup.compiled, feed, searches=setup.leader is None)
        followed = [] if setup.leader is None else [setup.leader]
        loop = Loop(
            setup.compiled,
            feed,
            setup.validation(seed),
            setup.epochs,
            [guard, *self._callbacks, reporter, *self._switchers(), *followed],
            between_calls=self._monitor.check,
            position=self._position,
            on_begin=(lambda: self._restore_callbacks(resumed)) if resumed else (lambda: None),
        )
        if setup.leader is not None:
            loop.announce = setup.leader.announce
        began_at = time.perf_counter() - trial.seconds
        try:
            loop.run()
        except Diverged as diverged:
            trial.fail(setup.report, str(diverged), diverged.data)
        else:
            trial.finish(self._callbacks)
            if trial.score is not None:
                self._keep_member(index, self._epoch_weights)
            if trial.score is not None and self._best_trial() is trial:
                self._best, self._best_epoch_weights = checkpoint.variables(self._model), self._epoch_weights
                if setup.recorder is not None:
                    setup.recorder.mark_best()
        trial.seconds = time.perf_counter() - began_at
        self._callbacks, self._epoch_weights = [], {}
        self._optimizers.begin()  # a checkpoint between two trials is of the first one

    def _switchers(self) -> list[keras.callbacks.Callback]:
        if not self._setup.optimizers_after:
            return []
        return [OptimizerSwitcher(self._optimizers.switch, self._callbacks, self._setup.report)]

    def _initialise(self, seed: int) -> None:
        """Reset the compiled model: the optimizer's first state, and the weights that belong to the seed."""
        self._optimizers.begin()
        values = self._setup.initialise(seed)
        if values is None:
            return  # the only trial
        for variable, value in zip(state_of(self._model), values, strict=True):
            variable.assign(value)

    def _keep_epoch(self, epoch: int) -> None:
        """Store the weights that training would end with now: some optimizers write averages into them at the end."""
        if epoch not in self._setup.keep_epochs:
            return
        current = [variable.value.numpy() for variable in self._model.trainable_weights]
        self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        self._epoch_weights[epoch] = self._model.get_weights()
        for variable, value in zip(self._model.trainable_weights, current, strict=True):
            variable.assign(value)

    def _best_trial(self) -> TrialRecord | None:
        return best_trial(self._trials, self._setup.larger_is_better)

    # --- checkpoints ------------------------------------------------------------------------------------

    def _save(self, epoch: int, step: int) -> None:
        position = (epoch, step, len(self._trials))
        if position == self._saved_position:
            return  # nothing changes here while other workers train
        states, arrays = checkpoint.callback_state(self._callbacks)
        body = {
            "kind": "sequential",
            "fingerprint": self._setup.fingerprint,
            "reading": self._setup.reading,
            "epoch": epoch,
            "step": step,
            "stopping": bool(self._model.stop_training),
            "callbacks": states,
            "trials": [asdict(trial) for trial in self._trials],
            "notes": self._setup.notes(),
        }
        arrays |= checkpoint.variables(self._model) | self._position.random_states
        arrays |= checkpoint.with_prefix("best", self._best)
        arrays |= checkpoint.epochs_to_arrays("kept", self._epoch_weights)
        arrays |= checkpoint.epochs_to_arrays("best_kept", self._best_epoch_weights)
        arrays |= checkpoint.epochs_to_arrays("member", self._members)
        for member, epochs in self._members_epoch_weights.items():
            arrays |= checkpoint.epochs_to_arrays(f"member_kept{member}", epochs)
        arrays |= {f"{_LOGS}/{name}": np.asarray(value) for name, value in self._position.logs.items()}
        if self._setup.recorder is not None:
            arrays |= self._setup.recorder.arrays()
        path = new_checkpoint_path(self._setup.folder)
        Checkpoint(body, arrays).write(path)
        self._setup.report.checkpoint(path, epoch)
        self._saved_position = position

    def _load_checkpoint(self, path: Path) -> Checkpoint | None:
        """Restore a checkpoint of this run. None if it is unusable: training then starts over."""
        try:
            loaded = self._restore(path)
        except Unusable as error:
            self._setup.report.event("warn", f"The last checkpoint cannot be used ({error}); training starts over.")
            return None
        self._trials = [TrialRecord(**trial) for trial in loaded.body["trials"]]
        self._setup.restore_notes(loaded.body.get("notes"))
        self._best = checkpoint.under_prefix("best", loaded.arrays)
        self._epoch_weights = checkpoint.epochs_from_arrays("kept", loaded.arrays)
        self._best_epoch_weights = checkpoint.epochs_from_arrays("best_kept", loaded.arrays)
        self._members = checkpoint.epochs_from_arrays("member", loaded.arrays)
        self._members_epoch_weights = {
            member: checkpoint.epochs_from_arrays(f"member_kept{member}", loaded.arrays) for member in self._members
        }
        if self._setup.recorder is not None:
            self._setup.recorder.restore_best(loaded.arrays)
        self._report_resumed(loaded)
        return loaded

    def _restore(self, path: Path) -> Checkpoint:
        """Read a checkpoint and restore the model's variables. Raises Unusable."""
        loaded = Checkpoint.read(path)
        if loaded.body["fingerprint"] != self._setup.fingerprint or loaded.body["kind"] != "sequential":
            raise Unusable(OF_ANOTHER)
        self._optimizers.resume(loaded.body["epoch"])
        checkpoint.restore(self._model, loaded.arrays)
        if loaded.body.get("reading", "memory") != self._setup.reading:
            message = "This worker's disk has no room for the encoded rows: from here on they come in another order."
            self._setup.report.event("warn", message)
        return loaded

    def _report_resumed(self, loaded: Checkpoint) -> None:
        running, epoch = self._running(), loaded.body["epoch"]
        if running is None:
            count = len(self._trials)
            self._setup.report.event("info", f"Resumed after {count} trials.", {"trials": count})
            return
        trial = f"trial {running.index + 1}, " if len(self._setup.seeds) > 1 else ""
        data = {"trial": running.index, "epoch": epoch}
        self._setup.report.event("info", f"Resumed at {trial}epoch {epoch + 1}.", data)

    def _restore_callbacks(self, resumed: Checkpoint) -> None:
        checkpoint.restore_callbacks(self._callbacks, self._model, resumed.body["callbacks"], resumed.arrays)
        self._model.stop_training = resumed.body["stopping"]


def _position_in(resumed: Checkpoint) -> Position:
    logs = checkpoint.under_prefix(_LOGS, resumed.arrays)
    by_name = {name: value if value.ndim else float(value) for name, value in logs.items()}
    return Position(resumed.body["epoch"], resumed.body["step"], by_name)
