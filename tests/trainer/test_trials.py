"""Trials: stacked or one after the other, failing alone, resumed from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.trainer.requests import RecordingReporter, request_of, train_only
from tests.waiting import PATIENCE
from workers.trainer import ready_run as training
from workers.trainer.engine import stacked_network
from workers.trainer.engine.checkpoint import Checkpoint
from workers.trainer.engine.executors import MULTITHREADED_STEP
from workers.trainer.interface import TrainingFailed, TrainingResult, TrainingStopped
from workers.trainer.train import train
from workers.trainer.trials import stacked as stacked_trials

pytestmark = pytest.mark.tensorflow


def _table(rows: int = 80) -> pa.Table:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 3))
    label = np.where(x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=rows) > 0, "in", "out")
    return pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "side": label, "sum": x.sum(axis=1)})


NETWORK = [{"Dense": {"units": 8, "activation": "relu"}}, {"Dropout": 0.1}, {"BatchNormalization": {}}]
STOPPING = {"monitor": "val_loss", "patience": 3, "restore_best_weights": True}


def _spec(**more: Any) -> dict[str, Any]:
    return {"target": "side", "network": NETWORK, "training": {"epochs": 6, "batch_size": 16, "seed": 3, **more}}


def _train_interrupted(
    table: pa.Table, spec: dict[str, Any], folder: Path, after: int
) -> tuple[TrainingResult, RecordingReporter]:
    """Train a run that is released after some epochs and resumed from its checkpoint."""
    first = RecordingReporter(stop_after=after, reason="release")
    request = request_of(table, spec, folder / "first")
    with pytest.raises(TrainingStopped):
        train(request, first)
    path = folder / "checkpoint.npz"
    path.write_bytes(first.checkpoints[-1][0])
    reporter = RecordingReporter()
    (folder / "second").mkdir()
    result = train_only(replace(request, folder=folder / "second", checkpoint=path), reporter)
    assert any("Resumed" in message for _, message, _ in reporter.events)
    reporter.epochs = first.epochs + reporter.epochs
    return result, reporter


def _assert_same_logs(one: RecordingReporter, other: RecordingReporter) -> None:
    keyed = [{(row["trial"], row["epoch"]): row["logs"] for row in reporter.epochs} for reporter in (one, other)]
    assert keyed[0].keys() == keyed[1].keys()
    for place, logs in keyed[0].items():
        assert logs.keys() == keyed[1][place].keys()
        for name, value in logs.items():
            assert keyed[1][place][name] == pytest.approx(value, rel=1e-6, abs=1e-7), (place, name)


@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(tmp_path: Path, after: int) -> None:
    spec = _spec(
        early_stopping={**STOPPING, "patience": 2}, reduce_lr_on_plateau={"patience": 1, "monitor": "val_loss"}
    )
    whole = RecordingReporter()
    undisturbed = train_only(request_of(_table(), spec, tmp_path / "whole"), whole)
    resumed, reporter = _train_interrupted(_table(), spec, tmp_path, after)
    _assert_same_logs(whole, reporter)
    assert resumed.manifest["receipt"]["weights"] == undisturbed.manifest["receipt"]["weights"]
    assert resumed.result["best_epoch"] == undisturbed.result["best_epoch"]


def test_stacked_trials_resume(tmp_path: Path) -> None:
    spec = _spec(restarts=3, early_stopping=STOPPING)
    whole = RecordingReporter()
    undisturbed = train_only(request_of(_table(), spec, tmp_path / "whole"), whole)
    resumed, reporter = _train_interrupted(_table(), spec, tmp_path, 7)
    _assert_same_logs(whole, reporter)
    assert resumed.result["best_trial"] == undisturbed.result["best_trial"]
    assert resumed.manifest["receipt"]["weights"] == undisturbed.manifest["receipt"]["weights"]


@pytest.mark.parametrize("restarts", [1, 3])
def test_no_checkpoint_replaces_one_that_may_still_be_read(tmp_path: Path, restarts: int) -> None:
    """A supervisor that falls behind reads each file as it was when it was reported."""
    reporter = RecordingReporter()
    train_only(replace(request_of(_table(), _spec(restarts=restarts), tmp_path), checkpoint_seconds=0.0), reporter)
    assert len(reporter.checkpoints) > 2
    for (data, epoch), path in zip(reporter.checkpoints, reporter.checkpoint_paths, strict=True):
        assert path.read_bytes() == data
        assert Checkpoint.read(path).body["epoch"] == epoch


def test_trials_one_after_the_other_resume(tmp_path: Path) -> None:
    spec = _spec(restarts=2, reduce_lr_on_plateau=True, epochs=3)
    whole = RecordingReporter()
    undisturbed = train_only(request_of(_table(), spec, tmp_path / "whole"), whole)
    assert any("ReduceLROnPlateau" in message for _, message, _ in whole.events)
    resumed, reporter = _train_interrupted(_table(), spec, tmp_path, 4)
    _assert_same_logs(whole, reporter)
    assert resumed.manifest["receipt"]["weights"] == undisturbed.manifest["receipt"]["weights"]


def test_a_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    reporter = RecordingReporter(stop_after=1, reason="release")
    with pytest.raises(TrainingStopped):
        train(request_of(_table(), _spec(), tmp_path / "a"), reporter)
    (tmp_path / "other.npz").write_bytes(reporter.checkpoints[0][0])
    (tmp_path / "torn.npz").write_bytes(reporter.checkpoints[0][0][:1000])
    for name in ("other.npz", "torn.npz"):
        again = RecordingReporter()
        train_only(request_of(_table(), _spec(epochs=2), tmp_path / f"b{name}", checkpoint=tmp_path / name), again)
        assert again.epochs[0]["epoch"] == 1
        assert any("training starts over" in message for _, message, _ in again.events)


@pytest.mark.parametrize(("restarts", "groups"), [(3, 1), (8, 2)])
def test_stacked_trials_end_as_they_would_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: int, groups: int
) -> None:
    monkeypatch.setattr(stacked_network, "MULTITHREADED_STEP", 0 if groups > 1 else MULTITHREADED_STEP)
    monkeypatch.setattr(stacked_network, "threads", lambda: 2)
    spec = _spec(restarts=restarts, early_stopping=STOPPING)
    spec["network"] = [{"Dense": {"units": 8, "activation": "relu", "kernel_regularizer": {"L2": 0.01}}}]
    together, alone = RecordingReporter(), RecordingReporter()
    one = train(request_of(_table(), spec, tmp_path / "stacked"), together)
    assert any("stacked" in message for _, message, _ in together.events)
    monkeypatch.setattr(training, "why_not_stacked", lambda setup: "a test")
    other = train_only(request_of(_table(), spec, tmp_path / "alone"), alone)
    keyed = {(row["trial"], row["epoch"]): row["logs"] for row in alone.epochs}
    assert len(keyed) == len(together.epochs)
    for row in together.epochs:
        for name, value in row["logs"].items():
            assert keyed[row["trial"], row["epoch"]][name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert one.result["best_trial"] == other.result["best_trial"]
    assert one.result["spread"]["std"] > 0
    assert [t["score"] for t in one.result["trials"]] == pytest.approx(
        [t["score"] for t in other.result["trials"]], rel=1e-4
    )


def test_a_trial_that_fails_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = stacked_trials.StackedTrials.__init__

    def poisoned(self: Any, setup: Any) -> None:
        begin(self, setup)
        kernel = next(iter(self._stack._stacked.values()))
        kernel.assign(np.where(np.arange(3)[:, None, None] == 1, np.nan, kernel.value.numpy()))

    monkeypatch.setattr(stacked_trials.StackedTrials, "__init__", poisoned)
    reporter = RecordingReporter()
    result = train(request_of(_table(), _spec(restarts=3), tmp_path), reporter)
    assert [trial["state"] for trial in result.result["trials"]] == ["succeeded", "failed", "succeeded"]
    assert result.result["trials"][1]["failure"]["layer"] == "dense"
    assert result.result["best_trial"] != 1
    assert result.result["spread"]["min"] > 0
    assert {row["trial"] for row in reporter.epochs} == {0, 2}


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_loss_that_is_no_number_fails_the_run_and_names_epoch_and_layer(tmp_path: Path, restarts: int) -> None:
    spec = {
        "target": "sum",
        "network": [{"Dense": {"units": 8, "activation": "exponential", "name": "steep"}}, {"Dense": {"units": 8}}],
        "training": {
            "optimizer": {"SGD": {"learning_rate": 100.0}},
            "epochs": 9,
            "restarts": restarts,
            "loss": "MeanSquaredError",
        },
    }
    with pytest.raises(TrainingFailed) as failed:
        train(request_of(_table(), spec, tmp_path), RecordingReporter())
    assert failed.value.cause == "diverged"
    assert failed.value.data["epoch"] >= 1
    assert failed.value.data["layer"] in ("steep", "dense", "sum")
    assert failed.value.data["layer"] in str(failed.value)


def test_a_cancelled_run_stops_without_a_checkpoint(tmp_path: Path) -> None:
    reporter = RecordingReporter(stop_after=2, reason="cancel")
    with pytest.raises(TrainingStopped) as stopped:
        train(replace(request_of(_table(), _spec(), tmp_path), checkpoint_seconds=PATIENCE), reporter)
    assert stopped.value.reason == "cancel"
    assert len(reporter.epochs) == 2
    assert not reporter.checkpoints


def test_the_same_spec_trains_to_the_same_weights(tmp_path: Path) -> None:
    reporter = [RecordingReporter(), RecordingReporter(), RecordingReporter()]
    seeds = (3, 3, 4)
    receipts = [
        train(request_of(_table(), _spec(seed=seed), tmp_path / str(at)), reporter[at]).manifest["receipt"]
        for at, seed in enumerate(seeds)
    ]
    assert receipts[0] == receipts[1]
    assert reporter[0].epochs == reporter[1].epochs
    changed = {"spec", "seed", "split", "weights"}
    assert {name for name in receipts[0] if receipts[0][name] != receipts[2][name]} == changed
    assert reporter[0].epochs[0]["logs"] != reporter[2].epochs[0]["logs"]
