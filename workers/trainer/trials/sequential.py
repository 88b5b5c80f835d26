"""A run's trials, one after the other: each from its own initial weights, the best on validation kept.

Other workers may train some of them: before each one the supervisor says which is next, and what came of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from workers.trainer.data.feed import Feed
from workers.trainer.engine import checkpoint
from workers.trainer.engine.checkpoint import Checkpoint, Unusable
from workers.trainer.engine.compiled import Compiled
from workers.trainer.engine.divergence import Diverged, Guard
from workers.trainer.engine.loop import Loop, Position
from workers.trainer.insight.trial_recorder import Watch
from workers.trainer.job import Reporter, TrainingFailed, TrainingResult, Turn
from workers.trainer.trials.progress import Lookout, Report
from workers.trainer.trials.trial import Kept, Outcome, Trial, judge, leader
from workers.trainer.trials.trial_file import Apart

_PAUSE = 0.3  # seconds between two questions whether others have ended their trials


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


class Runner:
    """Runs the trials of a course, from a checkpoint where there is one."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._model = course.compiled.model
        self._blank = [v.value.numpy() for v in self._model.optimizer.variables]
        # Where the first trial is not the first to be trained, the compiled network has other weights by then.
        self._first = [v.value.numpy() for v in _state(self._model)] if len(course.seeds) > 1 else []
        self._trials: list[Trial] = []
        self._best: dict[str, np.ndarray] = {}
        self._kept: Kept = {}  # of the trial at hand
        self._best_kept: Kept = {}
        self._callbacks: list[keras.callbacks.Callback] = []
        self._saved: tuple[int, int, int] | None = None  # where the last checkpoint was taken
        self._lookout = Lookout(course.report, course.checkpoint_seconds, self._save)

    def run(self, resume: Path | None = None) -> Outcome:
        """Raises TrainingStopped, and TrainingFailed where every trial diverged."""
        self._go_on(resume)
        while todo := self._todo():
            self._next(todo)
        self._trials.sort(key=lambda trial: trial.index)
        best = self._leader()
        if best is None:
            failure = self._trials[0].failure or {}
            raise TrainingFailed("diverged", str(failure.get("message")), failure)
        checkpoint.restore(self._model, self._best)
        return Outcome(self._trials, best.index, self._best_kept)

    def apart(self, index: int, resume: Path | None = None) -> TrainingResult:
        """That trial alone, for a run that another worker holds. Raises TrainingStopped."""
        self._go_on(resume)
        if not self._trials:
            self._trial(index)
        (trial,) = self._trials
        copies = self._course.watch.kept if self._course.watch is not None else {}
        path = self._course.folder / "trial.npz"
        Apart(trial, self._best, self._best_kept, copies).write(path, self._course.fingerprint)
        return TrainingResult({"trial": path}, {}, {"epochs": trial.epochs, "trials": [asdict(trial)]})

    def _go_on(self, resume: Path | None) -> None:
        """The trial in whose midst the checkpoint was taken; it may have been taken between two."""
        begin = self._resumed(resume) if resume else None
        running = self._running()
        if begin is not None and running is not None:
            self._trial(running.index, begin)

    # --- other workers --------------------------------------------------------------------------

    def _todo(self) -> list[int]:
        known = {trial.index for trial in self._trials}
        return [index for index in range(len(self._course.seeds)) if index not in known]

    def _next(self, todo: list[int]) -> None:
        turn = self._course.report.turn(todo) if len(self._course.seeds) > 1 else Turn(todo[0])
        for index, path in turn.done.items():
            if not self._take_over(index, path):
                self._trial(index)
        if turn.trial is not None:
            self._trial(turn.trial, self._begun_elsewhere(turn.trial, turn.checkpoint))
        elif not turn.done:
            self._lookout.look(0, 0)
            time.sleep(_PAUSE)

    def _take_over(self, index: int, path: Path) -> bool:
        """Whether that trial, trained by another worker, is one of this run's now."""
        course = self._course
        try:
            found = Apart.read(path, course.fingerprint, index)
        except Unusable as why:
            course.report.event("warn", f"Trial {index + 1} came back unusable ({why}); it is trained again.")
            return False
        self._trials.append(found.trial)
        if (failure := found.trial.failure) is not None:
            course.report.event("warn", f"Trial {index + 1} failed. {failure.get('message')}", failure)
        if self._leader() is found.trial:
            self._best, self._best_kept = dict(found.best), found.kept
            if course.watch is not None:
                course.watch.leads(found.copies)
        return True

    def _begun_elsewhere(self, index: int, path: Path | None) -> Checkpoint | None:
        """Another worker's checkpoint of that trial, put in place, or None: the trial then begins anew."""
        if path is None:
            return None
        try:
            found = self._read(path)
        except Unusable:
            return None
        trials = [Trial(**trial) for trial in found.body["trials"]]
        if [(trial.index, trial.state) for trial in trials] != [(index, "running")]:
            return None
        self._trials += trials
        self._kept = checkpoint.by_epoch("kept", found.arrays)
        self._say_resumed(found)
        return found

    # --- one trial ------------------------------------------------------------------------------

    def _running(self) -> Trial | None:
        return next((trial for trial in self._trials if trial.state == "running"), None)

    def _trial(self, index: int, begin: Checkpoint | None = None) -> None:
        course, seed = self._course, self._course.seeds[index]
        trial = (self._running() if begin else None) or Trial(index, seed, monitor=course.monitor)
        if not begin:
            self._trials.append(trial)
            self._kept = {}
            self._start(seed)
        if course.watch is not None:
            course.watch.begin(begin.body["epoch"] if begin else 0)
        feed = course.feed(seed)
        self._callbacks = course.callbacks()
        reporting = Report(trial, course.report, course.watch, self._keep)
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
        self._callbacks, self._kept = [], {}

    def _start(self, seed: int) -> None:
        """The first trial's weights are the compiled network's own; the others start it anew from theirs."""
        for variable, value in zip(self._model.optimizer.variables, self._blank, strict=True):
            variable.assign(value)
        fresh = self._course.initialise(seed)
        own = self._first if fresh is self._model else [new.value for new in _state(fresh)]
        if own:
            for mine, value in zip(_state(self._model), own, strict=True):
                mine.assign(value)

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
        here = (epoch, step, len(self._trials))
        if here == self._saved:
            return  # nothing happens here while others train
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
        self._saved = here

    def _resumed(self, path: Path) -> Checkpoint | None:
        """The checkpoint, if it is one of this run; else None, and the run begins anew."""
        try:
            found = self._read(path)
        except Unusable as why:
            self._course.report.event("warn", f"The last checkpoint cannot be used ({why}); training begins anew.")
            return None
        self._trials = [Trial(**trial) for trial in found.body["trials"]]
        self._best = {n.removeprefix("best/"): a for n, a in found.arrays.items() if n.startswith("best/")}
        self._kept = checkpoint.by_epoch("kept", found.arrays)
        self._best_kept = checkpoint.by_epoch("best_kept", found.arrays)
        self._say_resumed(found)
        return found

    def _read(self, path: Path) -> Checkpoint:
        """A checkpoint of this course, its network put in place. Raises Unusable."""
        found = Checkpoint.read(path)
        if found.body["fingerprint"] != self._course.fingerprint or found.body["kind"] != "sequential":
            raise Unusable("it belongs to another spec, dataset or release")
        checkpoint.restore(self._model, found.arrays)
        return found

    def _say_resumed(self, found: Checkpoint) -> None:
        running, epoch = self._running(), found.body["epoch"]
        if running is None:
            done = len(self._trials)
            self._course.report.event("info", f"Resumed after {done} trials.", {"trials": done})
            return
        place = f"epoch {epoch + 1}"
        if len(self._course.seeds) > 1:
            place = f"trial {running.index + 1}, {place}"
        self._course.report.event("info", f"Resumed at {place}.", {"trial": running.index, "epoch": epoch})

    def _restore(self, begin: Checkpoint) -> None:
        checkpoint.restore_callbacks(self._callbacks, self._model, begin.body["callbacks"], begin.arrays)
        self._model.stop_training = begin.body["stopping"]


def _state(model: keras.Model) -> list[Any]:
    """Weights, batch statistics and the states of random generators, without the optimizer's and metrics'."""
    return [*model.trainable_variables, *model.non_trainable_variables]
