"""A run's trials as one stacked network: Keras's callbacks for each replica, the best one kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from workers.trainer.data.feed import Feed
from workers.trainer.engine import checkpoint
from workers.trainer.engine.checkpoint import Checkpoint, Unusable
from workers.trainer.engine.compiled import Logs, Rows
from workers.trainer.insight.trial_recorder import StackedWatch
from workers.trainer.job import TrainingFailed
from workers.trainer.trials.progress import Lookout, rate_of
from workers.trainer.trials.sequential import Course, Runner
from workers.trainer.trials.stackable import refusal
from workers.trainer.trials.stacked_network import Stack
from workers.trainer.trials.trial import Kept, Outcome, Trial, judge, leader


def cannot_stack(course: Course) -> str | None:
    """Why this course's trials must be trained one after the other; None where they can be stacked."""
    feeds = [course.feed(course.seeds[0]), *([course.validation] if course.validation else [])]
    if not all(feed.resident for feed in feeds):
        return "the size of its data"
    if any(isinstance(callback, keras.callbacks.ReduceLROnPlateau) for callback in course.callbacks()):
        return "a learning rate of each trial's own (ReduceLROnPlateau)"
    return refusal(course.compiled.model, len(course.seeds), feeds[0].rows, course.compiled.batch_size)


class Replica:
    """What Keras's callbacks see of one replica: as much of a `keras.Model` as they use."""

    def __init__(self, stack: Stack, index: int) -> None:
        self.stop_training = False
        self.optimizer = stack.optimizer
        self.kept: list[NDArray[Any]] | None = None  # its final weights, once it has stopped
        self._stack, self._index = stack, index

    @property
    def metrics(self) -> list[Any]:
        return list(self._stack.model.metrics)

    @property
    def weights(self) -> list[Any]:
        return list(self._stack.model.weights)

    def get_weights(self) -> list[NDArray[Any]]:
        """Its weights now."""
        return self._stack.weights(self._index)

    def set_weights(self, weights: list[NDArray[Any]]) -> None:
        """Only what restores the best weights at the end calls this."""
        self.kept = weights


class StackedRunner:
    """Runs all trials of a course at once, from a checkpoint where there is one."""

    def __init__(self, course: Course) -> None:
        self._course = course
        model = course.compiled.model
        members = [course.initialise(seed) for seed in course.seeds]
        self._feeds = [course.feed(seed) for seed in course.seeds]
        self._rows = self._feeds[0].sample()
        self._stack = Stack(model, members, self._rows, course.compiled.batch_size)
        self._trials = [Trial(i, seed, monitor=course.monitor) for i, seed in enumerate(course.seeds)]
        self._replicas = [Replica(self._stack, index) for index in range(len(members))]
        self._kept: list[Kept] = [{} for _ in members]  # weights after the epochs to keep
        self._callbacks = [course.callbacks() for _ in members]
        self._lists = [
            keras.callbacks.CallbackList(own, model=replica, epochs=course.epochs)
            for own, replica in zip(self._callbacks, self._replicas, strict=True)
        ]
        self._lookout = Lookout(course.report, course.checkpoint_seconds, self._save)
        self._watch: StackedWatch | None = None

    def run(self, resume: Path | None = None) -> Outcome:
        """Raises TrainingStopped, and TrainingFailed where every trial diverged."""
        for callbacks in self._lists:
            callbacks.on_train_begin()
        first = self._resumed(resume) if resume else 0
        validation = self._course.validation
        held_out = validation.sample() if validation else None
        if self._course.watch is not None:
            self._watch = StackedWatch(self._stack, self._rows, self._course.watch, first)
        begun = time.perf_counter()
        for epoch in range(first, self._course.epochs):
            if not self._running():
                break
            self._epoch(epoch, held_out)
            self._lookout.look(epoch + 1, 0)
        for trial in self._running():
            self._end(trial)
        for trial in self._trials:
            trial.seconds = (time.perf_counter() - begun) / len(self._trials)
        best = leader(self._trials, self._course.larger_is_better)
        if best is None:
            self._why_all_failed()
        if best is not None and self._watch is not None:
            self._watch.leads(best.index, best.epochs)
        kept = self._replicas[best.index].kept if best else None
        self._course.compiled.model.set_weights(kept)
        return Outcome(self._trials, best.index, self._kept[best.index]) if best else Outcome(self._trials, 0)

    def _epoch(self, epoch: int, validation: Rows | None) -> None:
        running = self._running()
        for trial in running:
            self._lists[trial.index].on_epoch_begin(epoch)
        begun = time.perf_counter()
        order = np.stack([_order(feed, epoch) for feed in self._feeds])
        logs = self._stack.epoch(self._rows, order, validation)
        seconds = time.perf_counter() - begun
        layers = self._watch.look(epoch + 1) if self._watch is not None else None
        rate = rate_of(self._stack.optimizer)
        for trial in running:
            own = {"learning_rate": rate, **logs[trial.index]}
            self._ended(trial, epoch, own, seconds, layers[trial.index] if layers else None)

    def _ended(self, trial: Trial, epoch: int, logs: Logs, seconds: float, layers: dict[str, Any] | None) -> None:
        if not np.isfinite(logs["loss"]):
            layer = _first_broken(self._stack.model, self._replicas[trial.index].get_weights())
            message = f"The loss became {logs['loss']} in epoch {epoch + 1}: first in layer {layer!r} (weights)."
            found = {"epoch": epoch + 1, "layer": layer, "what": "weights"}
            trial.state, trial.failure = "failed", {"cause": "diverged", "message": message, **found}
            self._course.report.event("warn", f"Trial {trial.index + 1} failed. {message}", found)
            return
        self._lists[trial.index].on_epoch_end(epoch, logs)
        trial.epochs, trial.logs = epoch + 1, logs
        if epoch + 1 in self._course.keep_epochs:
            self._kept[trial.index][epoch + 1] = self._replicas[trial.index].get_weights()
        self._course.report.epoch(trial.index, epoch + 1, logs, seconds, layers)
        if self._replicas[trial.index].stop_training:
            self._end(trial)

    def _end(self, trial: Trial) -> None:
        replica = self._replicas[trial.index]
        self._lists[trial.index].on_train_end(trial.logs)
        replica.kept = replica.kept or replica.get_weights()
        judge(trial, self._callbacks[trial.index])

    def _running(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.state == "running"]

    def _why_all_failed(self) -> None:
        """Train the first trial again by itself, which finds the step and the layer. Raises TrainingFailed."""
        alone = Runner(self._course.alone())
        outcome = alone.run()  # as a rule it raises
        failure = self._trials[0].failure or {}
        raise TrainingFailed("diverged", str(failure.get("message") or outcome.trials[0].failure), failure)

    # --- checkpoints --------------------------------------------------------------------------------

    def _save(self, epoch: int, step: int) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        states = []
        for index, own in enumerate(self._callbacks):
            state, best = checkpoint.callback_state(own)
            states.append(state)
            arrays |= {f"replica{index}/{name}": value for name, value in best.items()}
            kept = self._replicas[index].kept or []
            arrays |= {f"kept{index}/{place}": value for place, value in enumerate(kept)}
            arrays |= checkpoint.of_epochs(f"epochs{index}", self._kept[index])
        arrays |= {f"stack/{place}": v.value.numpy() for place, v in enumerate(self._stack.variables)}
        body = {
            "kind": "stacked",
            "fingerprint": self._course.fingerprint,
            "epoch": epoch,
            "callbacks": states,
            "trials": [asdict(trial) for trial in self._trials],
        }
        path = self._course.folder / "checkpoint.npz"
        Checkpoint(body, arrays).write(path)
        self._course.report.checkpoint(path, epoch)

    def _resumed(self, path: Path) -> int:
        """The epoch to go on with: 0 where the checkpoint is none of this run."""
        try:
            found = Checkpoint.read(path)
            mine = {f"stack/{place}": v for place, v in enumerate(self._stack.variables)}
            if found.body["fingerprint"] != self._course.fingerprint or found.body["kind"] != "stacked":
                raise Unusable("it belongs to another spec, dataset or release")
            if any(found.arrays[name].shape != tuple(v.shape) for name, v in mine.items()):
                raise Unusable("its variables are not this network's")
        except (Unusable, KeyError) as why:
            self._course.report.event("warn", f"The last checkpoint cannot be used ({why}); training begins anew.")
            return 0
        for name, variable in mine.items():
            variable.assign(found.arrays[name])
        self._trials = [Trial(**trial) for trial in found.body["trials"]]
        for index, state in enumerate(found.body["callbacks"]):
            own = _under(found.arrays, f"replica{index}/")
            checkpoint.restore_callbacks(self._callbacks[index], self._stack.model, state, own)
            kept = _under(found.arrays, f"kept{index}/")
            self._replicas[index].kept = [kept[str(place)] for place in range(len(kept))] or None
            self._kept[index] = checkpoint.by_epoch(f"epochs{index}", found.arrays)
        epoch = int(found.body["epoch"])
        self._course.report.event("info", f"Resumed at epoch {epoch + 1}.", {"epoch": epoch})
        return epoch


def _order(feed: Feed, epoch: int) -> NDArray[np.int32]:
    return next(iter(feed.blocks(epoch))).order


def _under(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _first_broken(model: keras.Model, weights: Sequence[NDArray[Any]]) -> str | None:
    """The first layer with a weight that is not finite."""
    values = {id(v): value for v, value in zip(model.weights, weights, strict=True)}
    for layer in model.layers:
        if not all(np.isfinite(values[id(v)]).all() for v in layer.weights):
            return str(layer.name)
    return None
