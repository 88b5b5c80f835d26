"""A trial trained by another worker is exactly the trial that its run would have trained itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.requests import RecordingReporter, request_of
from tests.trainer.test_trials import STOPPING, _spec, _table
from workers.trainer import ready_run as training
from workers.trainer.engine.checkpoint import Checkpoint
from workers.trainer.engine.loop import Loop
from workers.trainer.interface import (
    StopReason,
    TrainingFailed,
    TrainingRequest,
    TrainingResult,
    TrainingStopped,
    TrialAssignment,
)
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow

# A learning rate of each trial's own cannot be stacked; dropout draws from each trial's own generator.
SPEC = _spec(
    restarts=4,
    epochs=4,
    early_stopping={**STOPPING, "patience": 2},
    reduce_lr_on_plateau={"patience": 1, "monitor": "val_loss"},
    keep_epochs=[2],
)


@dataclass
class AssigningReporter(RecordingReporter):
    """A reporter whose supervisor gives these assignments, then assigns trials as if there were no other worker."""

    answers: list[TrialAssignment] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)

    def next_trial(self, remaining: Sequence[int]) -> TrialAssignment:
        self.asked.append(list(remaining))
        return self.answers.pop(0) if self.answers else super().next_trial(remaining)


def _train_divided(request: TrainingRequest, trial: int, reporter: RecordingReporter, **more: Any) -> Path:
    folder = request.folder / f"divided-{trial}-{len(reporter.epochs)}"
    folder.mkdir(exist_ok=True)
    return train(replace(request, trial=trial, folder=folder, **more), reporter).files["trial"]


def _logs_by_epoch(*reporter: RecordingReporter) -> dict[tuple[int, int], Any]:
    return {(row["trial"], row["epoch"]): row["logs"] for one in reporter for row in one.epochs}


def _assert_same(one: TrainingResult, other: TrainingResult) -> None:
    untimed = [
        [{key: value for key, value in trial.items() if key != "seconds"} for trial in found.result["trials"]]
        for found in (one, other)
    ]
    assert untimed[0] == untimed[1]
    for name in ("best_trial", "best_epoch", "spread", "metrics"):
        assert one.result[name] == other.result[name], name
    assert one.manifest["receipt"]["weights"] == other.manifest["receipt"]["weights"]
    kept = [
        {epoch: net.manifest["receipt"]["weights"] for epoch, net in found.kept_epochs.items()}
        for found in (one, other)
    ]
    assert kept[0] == kept[1] != {}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRequest, TrainingResult, RecordingReporter]:
    """The run on one worker: its request, result and reporter."""
    reporter = RecordingReporter()
    request = request_of(_table(), SPEC, tmp_path_factory.mktemp("alone"))
    return request, train(request, reporter), reporter


def test_divided_trials_make_the_same_run(
    alone: tuple[TrainingRequest, TrainingResult, RecordingReporter], tmp_path: Path
) -> None:
    request, wanted, whole = alone
    request = replace(request, folder=tmp_path)
    elsewhere = RecordingReporter()
    done = {trial: _train_divided(request, trial, elsewhere) for trial in (3, 1)}
    reporter = AssigningReporter(
        answers=[TrialAssignment(2), TrialAssignment(0, finished={3: done[3]}), TrialAssignment(finished={1: done[1]})]
    )
    result = train(request, reporter)
    assert reporter.asked == [[0, 1, 2, 3], [0, 1, 3], [1]]
    _assert_same(result, wanted)
    assert _logs_by_epoch(reporter, elsewhere) == _logs_by_epoch(whole)
    insight = [sorted(found.files) for found in (result, wanted)]
    assert insight[0] == insight[1]


def test_a_trial_begun_by_another_worker_is_resumed(
    alone: tuple[TrainingRequest, TrainingResult, RecordingReporter], tmp_path: Path
) -> None:
    request, wanted, whole = alone
    request = replace(request, folder=tmp_path)
    begun = RecordingReporter(stop_after=2, reason="release")
    with pytest.raises(TrainingStopped):
        _train_divided(request, 1, begun)
    path = tmp_path / "begun.npz"
    path.write_bytes(begun.checkpoints[-1][0])
    reporter = AssigningReporter(answers=[TrialAssignment(0), TrialAssignment(1, checkpoint=path)])
    result = train(request, reporter)
    assert next(row["epoch"] for row in reporter.epochs if row["trial"] == 1) == 3
    _assert_same(result, wanted)
    assert _logs_by_epoch(begun, reporter) == _logs_by_epoch(whole)
    resumed = RecordingReporter()
    _train_divided(request, 1, resumed, checkpoint=path)  # its own worker can resume it too
    assert _logs_by_epoch(begun, resumed) == {
        place: logs for place, logs in _logs_by_epoch(whole).items() if place[0] == 1
    }


def test_a_run_that_waits_is_resumed_with_what_it_has(
    alone: tuple[TrainingRequest, TrainingResult, RecordingReporter], tmp_path: Path
) -> None:
    """Stopped between two trials, one of its own and one of another's done."""
    request, wanted, _ = alone
    request = replace(request, folder=tmp_path)
    done = {trial: _train_divided(request, trial, RecordingReporter()) for trial in (1, 2)}

    class Stops(AssigningReporter):
        def stop(self) -> StopReason:
            return "release" if len(self.asked) == 3 else ""

    first = Stops(answers=[TrialAssignment(0), TrialAssignment(finished={1: done[1]}), TrialAssignment()])
    with pytest.raises(TrainingStopped):
        train(request, first)
    path = tmp_path / "between.npz"
    path.write_bytes(first.checkpoints[-1][0])
    second = AssigningReporter(answers=[TrialAssignment(finished={2: done[2]})])
    (tmp_path / "second").mkdir()
    result = train(replace(request, folder=tmp_path / "second", checkpoint=path), second)
    assert second.asked == [[2, 3], [3]]
    assert any("Resumed after 2 trials" in message for _, message, _ in second.events)
    _assert_same(result, wanted)


def test_a_file_of_another_trial_or_run_is_not_adopted(
    alone: tuple[TrainingRequest, TrainingResult, RecordingReporter], tmp_path: Path
) -> None:
    request, wanted, _ = alone
    request = replace(request, folder=tmp_path)
    other = request_of(_table(), {**SPEC, "training": {**SPEC["training"], "batch_size": 8}}, tmp_path / "other")
    foreign = _train_divided(other, 1, RecordingReporter())
    torn = tmp_path / "torn.npz"
    torn.write_bytes(foreign.read_bytes()[:500])
    missing = tmp_path / "missing.npz"
    exchanged = _train_divided(request, 2, RecordingReporter())
    reporter = AssigningReporter(
        answers=[TrialAssignment(finished={1: foreign, 2: torn, 3: missing}), TrialAssignment(0, checkpoint=exchanged)]
    )
    _assert_same(train(request, reporter), wanted)
    assert sum("is unusable" in message for _, message, _ in reporter.events) == 3
    wrong = AssigningReporter(answers=[TrialAssignment(0, finished={3: exchanged})])
    _assert_same(train(request, wrong), wanted)


def test_a_divided_trial_that_diverges_is_a_failed_trial_of_its_run(
    alone: tuple[TrainingRequest, TrainingResult, RecordingReporter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, wanted, _ = alone
    request = replace(request, folder=tmp_path)
    run = Loop.run

    def poisoned(self: Loop) -> Any:
        on_begin = self.on_begin

        def spoil() -> None:
            on_begin()
            self.compiled.model.trainable_variables[0].assign(
                np.full(self.compiled.model.trainable_variables[0].shape, np.nan)
            )

        self.on_begin = spoil
        return run(self)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "run", poisoned)
        path = _train_divided(request, 2, RecordingReporter())
    reporter = AssigningReporter(answers=[TrialAssignment(finished={2: path})])
    result = train(request, reporter)
    trials = result.result["trials"]
    assert [trial["state"] for trial in trials] == ["succeeded", "succeeded", "failed", "succeeded"]
    assert trials[2]["failure"]["cause"] == "diverged"
    assert [trials[at]["score"] for at in (0, 1, 3)] == [wanted.result["trials"][at]["score"] for at in (0, 1, 3)]
    assert any(message.startswith("Trial 3 failed") for _, message, _ in reporter.events)
    monkeypatch.setattr(training, "TrainedRun", lambda *_: pytest.fail("there is nothing to export"))
    with pytest.raises(TrainingFailed):
        all_failed = {index: _renumbered(path, index, tmp_path) for index in range(4)}
        train(request, AssigningReporter(answers=[TrialAssignment(finished=all_failed)]))


def _renumbered(path: Path, index: int, folder: Path) -> Path:
    """Copy a failed trial's file with another trial's number."""
    found = Checkpoint.read(path)
    body = {key: value for key, value in found.body.items() if key != "format"}
    renamed = folder / f"failed-{index}.npz"
    Checkpoint({**body, "trial": {**body["trial"], "index": index}}, found.arrays).write(renamed)
    return renamed


def test_divided_members_make_the_same_ensemble(tmp_path: Path) -> None:
    # Gradients are clipped by the norm of one network's, so these members cannot be stacked.
    spec = _spec(
        epochs=4,
        optimizer={"Adam": {"clipnorm": 1.0}},
        early_stopping={**STOPPING, "patience": 2},
        keep_epochs=[2],
    )
    request = request_of(_table(), {**spec, "ensemble": {"members": 3, "validation": "folds"}}, tmp_path)
    wanted = train(replace(request, folder=_made(tmp_path / "alone")), RecordingReporter())
    done = {trial: _train_divided(request, trial, RecordingReporter()) for trial in (0, 2)}
    answers = [TrialAssignment(1), TrialAssignment(finished={2: done[2]}), TrialAssignment(finished={0: done[0]})]
    result = train(replace(request, folder=_made(tmp_path / "divided")), AssigningReporter(answers=answers))
    _assert_same(result, wanted)
    assert result.result["ensemble"] == wanted.result["ensemble"]
    assert result.result["ensemble"]["stacked"] is False


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
