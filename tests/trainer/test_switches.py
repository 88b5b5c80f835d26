"""Another optimizer from an epoch on: earlier epochs are unchanged, and the same class keeps its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitserve.spec.spec import SpecRefused
from tests.trainer import test_ensemble as ensembles
from tests.trainer.requests import RecordingReporter, request_of, train_only
from tests.trainer.test_kept_epochs import KINDS, spec, table
from workers.trainer.interface import TrainingStopped
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
ADAM = {"Adam": {"learning_rate": 0.05}}
SGD = {"SGD": {"learning_rate": 0.02, "momentum": 0.9}}


def logs_of(folder: Path, epochs: int, **training: Any) -> list[dict[str, float]]:
    reporter = RecordingReporter()
    train_only(request_of(table(), spec(epochs, **training), folder, KINDS), reporter)
    return [one["logs"] for one in reporter.epochs]


def test_a_switch_keeps_what_came_before_and_the_state_of_the_same_optimizer(tmp_path: Path) -> None:
    plain = logs_of(tmp_path / "plain", 6)
    same = logs_of(tmp_path / "same", 6, switches=[{"after": 3, "optimizer": ADAM}])
    assert same == plain, "moments and the count of steps go on, to the bit"
    lower = logs_of(tmp_path / "lower", 6, switches=[{"after": 3, "optimizer": {"Adam": {"learning_rate": 0.001}}}])
    assert lower[:3] == plain[:3]
    assert [one["learning_rate"] for one in lower] == pytest.approx([0.05] * 3 + [0.001] * 3)
    assert lower[3]["loss"] != plain[3]["loss"]


def test_a_run_with_switches_that_is_released_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    wanted = spec(7, switches=[{"after": 2, "optimizer": SGD}, {"after": 5, "optimizer": ADAM}])
    reporter = RecordingReporter()
    whole = train(request_of(table(), wanted, tmp_path / "whole", KINDS), reporter)
    said = [data["epoch"] for _, _, data in reporter.events if data and "optimizer" in data]
    assert said == [3, 6]
    for stop_after in (2, 4):  # at the switch, and past it
        first = RecordingReporter(stop_after=stop_after, reason="release")
        with pytest.raises(TrainingStopped):
            train(request_of(table(), wanted, tmp_path / f"first{stop_after}", KINDS), first)
        path = tmp_path / f"checkpoint{stop_after}.npz"
        path.write_bytes(first.checkpoints[-1][0])
        folder = tmp_path / f"second{stop_after}"
        resumed = train(request_of(table(), wanted, folder, KINDS, checkpoint=path), RecordingReporter())
        assert resumed.manifest["receipt"]["weights"] == whole.manifest["receipt"]["weights"]


def test_a_run_that_had_stopped_goes_on_after_a_switch(tmp_path: Path) -> None:
    stopping = {"monitor": "val_loss", "patience": 1, "min_delta": 10.0}
    assert len(logs_of(tmp_path / "stopped", 9, early_stopping=stopping)) == 2
    again = logs_of(tmp_path / "again", 9, early_stopping=stopping, switches=[{"after": 2, "optimizer": SGD}])
    assert len(again) == 3, "it waits for an improvement anew"


def of_members(epochs: int = 6, **training: Any) -> dict[str, Any]:
    trained = {"epochs": epochs, "optimizer": ADAM, **training}
    return ensembles.spec(3, network=[ensembles.DENSE, {"Dropout": 0.3}], training=trained)


def test_a_switch_in_an_ensemble_keeps_what_came_before_and_the_state(tmp_path: Path) -> None:
    plain, same = RecordingReporter(), RecordingReporter()
    train_only(request_of(ensembles.table(), of_members(4), tmp_path / "plain"), plain)
    switched = of_members(4, switches=[{"after": 2, "optimizer": ADAM}])
    train_only(request_of(ensembles.table(), switched, tmp_path / "same"), same)
    assert [data["epoch"] for _, _, data in same.events if data and "optimizer" in data] == [3]
    assert [one["logs"] for one in same.epochs] == [one["logs"] for one in plain.epochs], "to the bit"


def test_members_switch_alike_stacked_and_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = of_members(switches=[{"after": 3, "optimizer": SGD}, {"after": 5, "optimizer": ADAM}])
    stacked, reporter = ensembles.finish(wanted, tmp_path / "stacked")
    rates = [one["logs"]["learning_rate"] for one in reporter.epochs]
    assert rates == pytest.approx([0.05] * 3 + [0.02] * 2 + [0.05])
    monkeypatch.setattr("workers.trainer.ready_run.why_not_stacked", lambda setup: "this test")
    alone, reporter = ensembles.finish(wanted, tmp_path / "alone")
    assert [one["logs"]["learning_rate"] for one in reporter.epochs] == pytest.approx(rates * 3)
    for one, other in zip(ensembles.members_of(stacked), ensembles.members_of(alone), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# The stack before and past the switch; one after the other: between two members, and in the second past its switch.
@pytest.mark.parametrize(("after", "stacked"), [(3, True), (6, False), (10, False)])
def test_an_ensemble_with_a_switch_that_is_released_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, stacked: bool
) -> None:
    if not stacked:
        monkeypatch.setattr("workers.trainer.ready_run.why_not_stacked", lambda setup: "this test")
    wanted = of_members(switches=[{"after": 3, "optimizer": SGD}])
    whole, _ = ensembles.finish(wanted, tmp_path / "whole")
    first = RecordingReporter(stop_after=after, reason="release")
    with pytest.raises(TrainingStopped):
        train(request_of(ensembles.table(), wanted, tmp_path / "first"), first)
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(first.checkpoints[-1][0])
    resumed, reporter = ensembles.finish(wanted, tmp_path / "second", checkpoint=path)
    assert any("Resumed" in message for _, message, _ in reporter.events)
    assert resumed.manifest["receipt"]["weights"] == whole.manifest["receipt"]["weights"]


def test_members_that_train_as_one_network_go_on_as_one(tmp_path: Path) -> None:
    clipped = {"Adam": {"learning_rate": 0.05, "clipnorm": 1.0}}
    with pytest.raises(SpecRefused) as refused:
        request_of(ensembles.table(), of_members(switches=[{"after": 3, "optimizer": clipped}]), tmp_path)
    assert [problem.pointer for problem in refused.value.problems] == ["/training/switches/0/optimizer"]
