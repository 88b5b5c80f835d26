"""A search: train trials at points of a spec's ranges, stacked if possible, and export the best one's network.

The rows of the trials are the truth. A search that resumes after a crash keeps every trial whose row has ended, and
trains unfinished ones again: a trial follows from its spec alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import BadInput
from fitserve.settings import Limits
from fitserve.spec.resolve_search import search_of, trial_spec
from fitserve.spec.search import LEFT_OUT, Point, values_of
from fitserve.spec.spec import Spec
from fitserve.states import STACKED_TRIALS
from fitserve.strictjson import finite_json
from workers.installed import versions
from workers.trainer.engine.checkpoint import Checkpoint, Unusable
from workers.trainer.engine.kept_networks import KEPT, tidy_up
from workers.trainer.engine.network import build_network
from workers.trainer.engine.replica_optimizer import differing
from workers.trainer.engine.replica_settings import ReplicaSettings, signature
from workers.trainer.export.receipt import digest_of
from workers.trainer.interface import (
    Reporter,
    TrainingFailed,
    TrainingRequest,
    TrainingResult,
    TrainingStopped,
    TrialAssignment,
)
from workers.trainer.ready_run import ReadyRun, make_ready, prepare_data, run_trials
from workers.trainer.search.pruning import EarlyEnd, behind, rungs
from workers.trainer.search.study import Study
from workers.trainer.search.summary import ENDED, Row, no_trial, summarize
from workers.trainer.search.trial_ensemble import POOL, Candidate, average, seconds_of_a_row
from workers.trainer.search.trial_reporter import TrialReporter
from workers.trainer.trials.stacked import StackedTrials, why_not_stacked
from workers.trainer.trials.trial import (
    ASK_AGAIN_SECONDS,
    Members,
    TrialFile,
    TrialRecord,
    TrialSetup,
    TrialsOutcome,
    Weights,
)

TIDY_EVERY = 8  # groups between two garbage collections: scanning all objects can take longer than training a group


@dataclass
class _Best:
    """The best trial's network, in memory: after a crash it is trained once more."""

    trial: int
    weights: Weights | None
    members: Members | None


class SearchRun:
    """Trains the trials of one search."""

    def __init__(self, request: TrainingRequest, facts: DatasetFacts, report: Reporter) -> None:
        search = search_of(request.spec)
        assert search is not None
        self._request, self._facts, self._report, self._search = request, facts, report, search
        self._settings = search.settings
        self._metric = str(search.settings.metric)
        self._sign = -1.0 if search.settings.direction == "max" else 1.0
        self._limits = Limits.model_validate(request.limits)
        self._rows: dict[int, Row] = {row["trial"]: dict(row) for row in request.trials}
        self._specs: dict[int, Spec] = {}
        self._records: dict[int, TrialRecord] = {}
        self._templates: dict[str, Spec] = {}  # specs of stacks, keyed by what their trials share
        self._groups = 0  # number of trained groups
        self._best: _Best | None = None
        self._weights: dict[int, Weights] = {}  # weights of trials that may be averaged
        self._data: tuple[str, Any] | None = None  # the last trial's, by what they follow from
        self._spent = sum(float(row["seconds"] or 0.0) for row in request.trials)
        self._began_at = time.perf_counter()
        self._study = Study(search)

    def result(self) -> TrainingResult:
        """Search, then export the best trial's network. Raises TrainingStopped, TrainingFailed."""
        if self._rows:
            ended = sum(row["state"] in ENDED for row in self._rows.values())
            self._report.event("info", f"The search goes on: {ended} of its trials have ended.", {"ended": ended})
        at_once, total = int(self._settings.parallel or 1), int(self._settings.trials or 1)
        for first in range(0, total, at_once):
            if self._rows and self._out_of_time() and self._best_number() is not None:
                self._report.event("info", f"The time was up after {len(self._rows)} trials.")
                break
            points = self._study.ask(min(at_once, total - first))
            numbers = range(first, first + len(points))
            self._begin(dict(zip(numbers, points, strict=True)))
            self._train_all(numbers)
            self._study.tell([self._rows[number] for number in numbers])
        return self._finish()

    def _reporter(self, numbers: Sequence[int], quiet: bool = False) -> TrialReporter:
        return TrialReporter(self._report, list(numbers), self._metric, quiet=quiet)

    def _out_of_time(self) -> bool:
        limit = self._settings.seconds
        return limit is not None and self._spent + time.perf_counter() - self._began_at > limit

    # --- trials ---------------------------------------------------------------------------------------

    def _begin(self, points: Mapping[int, Point]) -> None:
        """Give each trial its row, and its spec; one whose spec is invalid fails with the reason."""
        for number, point in points.items():
            row = self._rows.get(number)
            if row is None:
                values = values_of(self._search.ranges, point)
                row = {"trial": number, "state": "running", "point": point, "values": values, "seconds": 0.0}
                self._rows[number] = row
                self._report.search_trial(dict(row))
            try:
                self._specs[number] = self._resolved(row["point"])
            except BadInput as error:
                problems = error.problems
                reason = problems[0].detail if problems else error.detail
                at = f" ({problems[0].pointer})" if problems and problems[0].pointer else ""
                self._end(number, "failed", reason=f"Its spec is invalid: {reason}{at}")

    def _resolved(self, point: Point) -> Spec:
        return trial_spec(self._search, point, self._facts, self._limits, self._request.pace).spec

    def _train_all(self, numbers: Sequence[int]) -> None:
        """Train these trials, those of one signature side by side.

        After a crash a group that had not ended is trained again as it was, so that it ends the same to the bit.
        """
        groups: dict[Any, list[int]] = {}
        for number in numbers:
            if number in self._specs:
                groups.setdefault(signature(self._specs[number]) or number, []).append(number)
        alone: list[int] = []
        for common, group in groups.items():
            if len(group) > 1:
                self._templates.setdefault(common, self._specs[group[0]])
            if not any(self._rows[number]["state"] == "running" for number in group):
                continue
            template = self._templates.get(common)
            if template is None or not self._train_stacked(group, template):
                alone += group
            self._tidy_up()
        self._train_each([number for number in alone if self._rows[number]["state"] == "running"])

    def _tidy_up(self) -> None:
        """Take back networks for the next trials; from time to time, release everything that is not cached."""
        self._groups += 1
        if self._groups % TIDY_EVERY:
            KEPT.take_back()
        else:
            tidy_up()

    def _train_stacked(self, numbers: list[int], template: Spec) -> bool:
        """Train a group as one network, the template's, which is kept for later groups that have it in common.

        Returns False where that is impossible.
        """
        if self._end_if_out_of_time(numbers):
            return True
        reporter = self._reporter(numbers)
        try:
            ready = self._ready(template, reporter)
            setup = self._resumable(self._stacked_setup(ready, numbers, reporter), numbers, reporter)
            if (obstacle := why_not_stacked(setup)) is not None:
                self._report.event("info", f"Trials {_listed(numbers)} train alone: {obstacle} cannot be stacked.")
                return False
            message = f"Trials {_listed(numbers)} train as one stacked network."
            assert setup.settings is not None
            data = {STACKED_TRIALS: numbers, "differing": differing(setup.settings.optimizers)}
            self._report.event("info", message, data)
            self._take(numbers, StackedTrials(setup).run(self._checkpoint_of(setup)), reporter)
        except TrainingFailed as failure:
            for number in numbers:
                self._end(number, "failed", reason=str(failure))
        return True

    def _train_each(self, numbers: list[int]) -> None:
        """Train trials that cannot be stacked, each by itself, here or on workers that are idle."""
        members = [number for number in numbers if self._specs[number].ensemble is not None]
        for number in members:
            if not self._end_if_out_of_time([number]):
                self._train_alone(number)
        remaining = [number for number in numbers if number not in members]
        while remaining and not self._end_if_out_of_time(remaining):
            assignment = self._report.next_trial(remaining) if len(remaining) > 1 else TrialAssignment(remaining[0])
            for number, path in assignment.finished.items():
                self._adopt(number, path)
            if assignment.trial is not None:
                self._train_alone(assignment.trial, assignment.checkpoint)
                self._tidy_up()
            elif not assignment.finished:
                self._report.progress()
                if reason := self._report.stop():
                    raise TrainingStopped(reason)
                time.sleep(ASK_AGAIN_SECONDS)
            remaining = [number for number in remaining if self._rows[number]["state"] == "running"]

    def _end_if_out_of_time(self, numbers: Sequence[int]) -> bool:
        """End trials that have not begun when the time is up. At least one trial is trained."""
        if not self._out_of_time() or self._best_number() is None:
            return False
        for number in numbers:
            self._end(number, "pruned", reason="The time was up before it began.", epochs=0)
        return True

    def _train_alone(self, number: int, begun: Path | None = None) -> None:
        """Train one trial, from a checkpoint of it where there is one."""
        reporter = self._reporter([number])
        began_at = time.perf_counter()
        try:
            outcome = self._alone(number, reporter, begun)
        except TrainingFailed as failure:
            self._end(number, "failed", reason=str(failure), seconds=time.perf_counter() - began_at)
            return
        self._take([number], outcome, reporter)

    def _alone(self, number: int, reporter: TrialReporter, begun: Path | None = None) -> TrialsOutcome:
        """Train one trial. Raises TrainingFailed."""
        began_at = time.perf_counter()
        ready = self._ready(self._specs[number], reporter)
        watch = EarlyEnd(lambda: self._pruned([number], reporter), self._out_of_time)
        callbacks = ready.setup.callbacks
        setup = replace(ready.setup, recorder=None, callbacks=lambda: [*callbacks(), watch])
        setup = self._resumable(setup, [number], reporter)
        outcome = run_trials(setup, self._checkpoint_of(setup, begun))
        weights = {} if outcome.members else {0: ready.setup.compiled.model.get_weights()}
        record = replace(outcome.trials[0], seconds=time.perf_counter() - began_at)
        if watch.why is not None:
            record.prune(watch.why)
        return replace(outcome, trials=[record], weights=weights)

    def _resumable(self, setup: TrialSetup, numbers: Sequence[int], reporter: TrialReporter) -> TrialSetup:
        """Make checkpoints name their trials, and store the figures by which these are compared."""
        specs = [self._specs[number].to_json() for number in numbers]
        compared = rungs(self._specs[numbers[0]].training.epochs) if self._settings.pruner != "none" else ()
        return replace(
            setup,
            fingerprint=digest_of([setup.fingerprint, list(numbers), specs]),
            compared=frozenset(compared),
            notes=reporter.notes,
            restore_notes=reporter.restore,
        )

    def _checkpoint_of(self, setup: TrialSetup, begun: Path | None = None) -> Path | None:
        """Return the checkpoint of exactly these trials, if an earlier attempt or another worker left one."""
        for path in filter(None, (begun, self._request.checkpoint)):
            with contextlib.suppress(Unusable):
                if Checkpoint.read(path).body.get("fingerprint") == setup.fingerprint:
                    return path
        return None

    # --- other workers --------------------------------------------------------------------------------

    def divided_result(self, number: int) -> TrainingResult:
        """Train one trial for a search that another worker holds. Raises TrainingStopped."""
        self._specs[number] = self._resolved(self._rows[number]["point"])
        reporter = self._reporter([number])
        began_at = time.perf_counter()
        weights: Weights = []
        try:
            outcome = self._alone(number, reporter)
            record, weights = replace(outcome.trials[0], index=number), outcome.weights[0]
        except TrainingFailed as failure:
            failed = {"cause": failure.cause, "message": str(failure)}
            seconds = time.perf_counter() - began_at
            record = TrialRecord(number, 0, "failed", len(reporter.history[number]), seconds=seconds, failure=failed)
        path = self._request.folder / "trial.npz"
        arrays = {str(index): value for index, value in enumerate(weights)}
        TrialFile(record, arrays, history=reporter.history[number]).write(path, self._trial_fingerprint(number))
        return TrainingResult({"trial": path}, {}, {"epochs": record.epochs, "trials": [asdict(record)]})

    def _trial_fingerprint(self, number: int) -> str:
        return digest_of(
            [self._facts.sha256, number, self._resolved(self._rows[number]["point"]).to_json(), versions()]
        )

    def _adopt(self, number: int, path: Path) -> None:
        """Adopt a trial that another worker trained; if its file is unusable, train it here."""
        try:
            file = TrialFile.read(path, self._trial_fingerprint(number), number)
        except Unusable as error:
            self._report.event("warn", f"The file of trial {number + 1} is unusable ({error}); it is trained again.")
            self._train_alone(number)
            return
        reporter = self._reporter([number])
        reporter.history[number] = list(file.history)
        weights = [file.best[str(index)] for index in range(len(file.best))]
        self._take([number], TrialsOutcome([file.trial], 0, weights={0: weights} if weights else {}), reporter)

    def _ready(self, spec: Spec, reporter: Reporter) -> ReadyRun:
        """Return a spec's data and network, reusing the last trial's data if they would be the same."""
        request = replace(self._request, spec=spec.to_json(), checkpoint=None)
        training = spec.training
        names = ("target", "features", "rows_without_target", "split", "ensemble")
        body = {name: request.spec[name] for name in names}
        seed = training.seed if spec.split.seed is None or spec.ensemble is not None else None
        key = str([body, training.class_weight, training.sample_weight, seed, training.loss])
        if self._data is None or self._data[0] != key:
            self._data = (key, prepare_data(request, spec, self._facts, reporter))
        return make_ready(request, spec, self._facts, reporter, self._data[1])

    def _stacked_setup(self, ready: ReadyRun, numbers: list[int], reporter: TrialReporter) -> TrialSetup:
        specs = [self._specs[number] for number in numbers]
        rows, size = ready.rows["train"].count, ready.setup.compiled.batch_size
        steps = specs[0].training.steps_per_epoch or -(-rows // size)
        at_once = int(self._settings.parallel or 1)
        members: dict[Any, keras.Model] = {}
        left = iter(specs)

        def initialise(seed: int) -> keras.Model:
            # Keras draws no seed for a Dropout of rate 0, so that the weights after it are others.
            spec = next(left)
            layers = [entry.layer for entry in spec.network]
            rates = [getattr(layer, "rate", 0.0) for layer in layers if type(layer).__name__ == "Dropout"]
            key = (seed, *(rate > 0 for rate in rates))
            if key not in members:
                keras.utils.set_random_seed(seed)
                members[key] = build_network(spec)
            return members[key]

        return replace(
            ready.setup,
            seeds=[spec.training.seed for spec in specs],
            initialise=initialise,
            settings=ReplicaSettings.of(specs, steps),
            widths=(max(2, at_once // 4), at_once),
            recorder=None,
            pruned=lambda epoch, running: self._pruned(numbers, reporter, epoch, running),
            out_of_time=self._out_of_time,
        )

    # --- pruning --------------------------------------------------------------------------------------

    def _pruned(
        self,
        numbers: Sequence[int],
        reporter: TrialReporter,
        epoch: int | None = None,
        running: Sequence[TrialRecord] | None = None,
    ) -> dict[int, str]:
        """Return which of the trials end after the epoch that they have finished, by their place in `numbers`."""
        if self._settings.pruner == "none":
            return {}
        histories = {number: reporter.history[number] for number in numbers}
        epoch = epoch or max(map(len, histories.values()))
        if epoch not in rungs(self._specs[numbers[0]].training.epochs):
            return {}
        places = range(len(numbers)) if running is None else [trial.index for trial in running]
        now = {
            place: histories[numbers[place]][epoch - 1] for place in places if len(histories[numbers[place]]) >= epoch
        }
        going_on = {numbers[place] for place in now}
        others = [row["rungs"] for n, row in self._rows.items() if n not in going_on and row.get("rungs")]
        before = [values[str(epoch)] for values in others if values.get(str(epoch)) is not None]
        return behind(self._settings.pruner, now, before, self._settings.direction == "max")

    # --- results --------------------------------------------------------------------------------------

    def _take(self, numbers: Sequence[int], outcome: TrialsOutcome, reporter: TrialReporter) -> None:
        """Write the rows of trials that ended, and store the network of the best."""
        for number, record in zip(numbers, outcome.trials, strict=True):
            history = reporter.history[number]
            at = (record.best_epoch or record.epochs) if record.state == "succeeded" else record.epochs
            value = history[at - 1] if 0 < at <= len(history) else math.nan
            reason = (record.failure or {}).get("message")
            state = record.state
            if state == "succeeded" and not math.isfinite(value):
                state, reason = "failed", f"{self._metric} is not a finite number at epoch {at}."
            if state == "succeeded" and self._out_of_time():
                reason = f"The time was up after epoch {record.epochs}."
            compared = rungs(self._specs[number].training.epochs)
            reached = {str(e): history[e - 1] for e in compared if e <= len(history)}
            self._records[number] = record
            self._end(
                number,
                state,
                reason=reason,
                value=finite_json(value),
                epochs=record.epochs,
                best_epoch=record.best_epoch,
                seconds=record.seconds,
                rungs=finite_json(reached),
            )
            place = 0 if len(numbers) == 1 else record.index
            if self._settings.ensemble is not None and state == "succeeded" and place in outcome.weights:
                self._keep_weights(number, outcome.weights[place])
            if self._best_number() == number:
                self._best = _Best(number, outcome.weights.get(place), outcome.members)

    def _keep_weights(self, number: int, weights: Weights) -> None:
        """Keep the weights of the trials that may be averaged: no more than could be chosen."""
        self._weights[number] = weights
        ranked = sorted(self._weights, key=lambda index: self._sign * float(self._rows[index]["value"]))
        for index in ranked[POOL:]:
            del self._weights[index]

    def _end(self, number: int, state: str, **more: Any) -> None:
        row = self._rows[number]
        if row["state"] != "running":
            return  # it had ended before the crash
        row |= {"state": state, **more}
        self._report.search_trial(dict(row))
        if state == "failed":
            self._report.event("warn", f"Trial {number + 1} failed. {row['reason']}", {"trial": number})

    def _ranked(self) -> list[Row]:
        """Return the rows of the trials that have a value, the best first."""
        done = [row for row in self._rows.values() if row["state"] == "succeeded" and row.get("value") is not None]
        return sorted(done, key=lambda row: (self._sign * row["value"], row["trial"]))

    def _best_number(self) -> int | None:
        """Return the trial to serve: the best one, or in an ablation the best one of the unchanged spec."""
        ranked = self._ranked()
        if self._search.ablation is not None:
            ranked = [row for row in ranked if row["point"][LEFT_OUT] == 0]
        return int(ranked[0]["trial"]) if ranked else None

    def _finish(self) -> TrainingResult:
        number = self._best_number()
        if number is None:
            raise no_trial(list(self._rows.values()))
        spec = self._resolved(self._rows[number]["point"])
        self._specs[number] = spec
        reporter = self._reporter([number], quiet=True)
        ready = self._ready(spec, reporter)
        if self._best is None or self._best.trial != number:
            self._report.event("info", f"Trial {number + 1}, the best, was trained before the crash: once more.")
            epochs = int(self._rows[number]["epochs"])  # fewer than in its spec if the time was up
            outcome = run_trials(replace(ready.setup, recorder=None, epochs=epochs), None)
        else:
            if self._best.weights is not None:
                ready.setup.compiled.model.set_weights(self._best.weights)
            record = self._records[number]
            outcome = TrialsOutcome([replace(record, index=0)], 0, members=self._best.members)
        ready = replace(ready, setup=replace(ready.setup, recorder=None))
        summary = summarize(self._search, self._rows, number, spec, self._study.importance(), self._report)
        if self._settings.ensemble is not None:
            ready, averaged = self._averaged(number, ready)
            outcome, summary = replace(outcome, epoch_weights={}), {**summary, **averaged}
        finished = ready.finish(outcome, time.perf_counter() - self._began_at)
        if "averaged" in summary:
            summary["averaged"] |= self._cost(finished, number)
        return replace(finished, result={**finished.result, **summary})

    # --- several trials as one network ----------------------------------------------------------------

    def _averaged(self, number: int, ready: ReadyRun) -> tuple[ReadyRun, dict[str, Any]]:
        """Return the average of several trials as a network to export, and those trials; the best if none helps."""
        numbers = [row["trial"] for row in self._ranked()[:POOL]]
        # The weights first: of a trial that was trained before a crash they bring its spec with them.
        candidates = [Candidate(index, weights=self._weights_of(index), spec=self._specs[index]) for index in numbers]
        name = self._metric.removeprefix("val_")
        reporter = self._reporter([number], quiet=True)
        make = partial(self._ready, reporter=reporter)
        ready, report = average(candidates, self._settings.ensemble, ready, name, self._sign, make)
        several, single = report["together"], report["best_trial"]
        message = f"{len(report['trials'])} trials are averaged: {name} {several:.4g}, the best alone {single:.4g}."
        self._report.event("info", message, report)
        return ready, {"averaged": report}

    def _weights_of(self, number: int) -> Weights:
        """Return a trial's weights; one that was trained before a crash is trained once more."""
        if number not in self._weights:
            self._specs[number] = self._resolved(self._rows[number]["point"])
            reporter = self._reporter([number], quiet=True)
            ready = self._ready(self._specs[number], reporter)
            run_trials(replace(ready.setup, recorder=None, epochs=int(self._rows[number]["epochs"])), None)
            self._weights[number] = ready.setup.compiled.model.get_weights()
        return self._weights[number]

    def _cost(self, finished: TrainingResult, number: int) -> dict[str, Any]:
        """Return the time of predicting one row, by the best trial alone and by the network that is served."""
        reporter = self._reporter([number], quiet=True)
        ready = self._ready(self._specs[number], reporter)
        ready.setup.compiled.model.set_weights(self._weights_of(number))
        one, several = seconds_of_a_row(ready, finished.files["onnx"], reporter)
        return {"microseconds": {"best_trial": 1e6 * one, "together": 1e6 * several}}


def _listed(numbers: Sequence[int]) -> str:
    return f"{numbers[0] + 1} to {numbers[-1] + 1}" if len(numbers) > 2 else " and ".join(str(n + 1) for n in numbers)
