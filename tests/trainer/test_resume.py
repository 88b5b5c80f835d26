"""A run that is killed anywhere and resumed ends bit-identical to an undisturbed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest

from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer import ready_run
from workers.trainer.data import feeds, preparation
from workers.trainer.engine import loop
from workers.trainer.engine.checkpoint import Checkpoint
from workers.trainer.interface import TrainingRequest, TrainingResult
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow

ROWS = 120


@dataclass(frozen=True)
class Trained:
    """What a training came to: its network's variables, the snapshots of its epochs, what it reported."""

    variables: list[np.ndarray]
    snapshots: dict[int, Any]
    reporter: RecordingReporter

    @property
    def logs(self) -> dict[tuple[int, int], dict[str, float]]:
        return {(row["trial"], row["epoch"]): row["logs"] for row in self.reporter.epochs}


@pytest.fixture(autouse=True)
def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen batches a call, so that short epochs and validations are interrupted in the middle; no files."""
    monkeypatch.setattr(loop.Pace, "record_call", lambda *_: None)
    monkeypatch.setattr(ready_run.ReadyRun, "finish", _figures)


def _figures(ready: ready_run.ReadyRun, outcome: Any, seconds: float) -> TrainingResult:
    recorder = ready.setup.recorder
    assert recorder is not None
    snapshots = outcome.members.snapshots if outcome.members else recorder.best_snapshots
    variables = [variable.value.numpy() for variable in ready.setup.compiled.model.variables]
    return TrainingResult({}, {"variables": variables, "snapshots": dict(snapshots)})


def _table() -> pa.Table:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, 3))
    label = np.where(x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=ROWS) > 0, "in", "out")
    return pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "side": label})


_DENSE = [{"Dense": {"units": 8, "activation": "relu"}}, {"Dropout": 0.1}, {"BatchNormalization": {}}]
_RECURRENT = [{"Reshape": [3, 1]}, {"LSTM": {"units": 3, "dropout": 0.2, "recurrent_dropout": 0.2}}]
_STOPPING = {
    "early_stopping": {"monitor": "val_loss", "patience": 1, "restore_best_weights": True},
    "reduce_lr_on_plateau": {"patience": 1, "monitor": "loss", "cooldown": 1},
}


def _spec(network: Sequence[Any] = _DENSE, **training: Any) -> dict[str, Any]:
    training = {"epochs": 3, "batch_size": 2, "seed": 3, "early_stopping": None, **training}
    return {"target": "side", "network": network, "split": {"validation": 0.4, "test": 0.1}, "training": training}


def _trained(request: TrainingRequest) -> Trained:
    reporter = RecordingReporter()
    result = train(replace(request, checkpoint_seconds=-1.0), reporter)
    return Trained(**result.manifest, reporter=reporter)


def _resumed(whole: Trained, request: TrainingRequest, index: int) -> Trained:
    """Train on from one of the checkpoints of an undisturbed training."""
    path = request.folder / f"killed{index}.npz"
    path.write_bytes(whole.reporter.checkpoints[index][0])
    resumed = _trained(replace(request, checkpoint=path))
    assert any("Resumed" in message for _, message, _ in resumed.reporter.events), resumed.reporter.events
    return resumed


def _assert_equal(resumed: Trained, whole: Trained, where: object = "") -> None:
    for one, other in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=str(where))
    assert resumed.logs == {place: whole.logs[place] for place in resumed.logs}, where
    assert resumed.snapshots.keys() == whole.snapshots.keys(), where
    for epoch, weights in whole.snapshots.items():
        pair = (keras.tree.flatten(kept) for kept in (resumed.snapshots[epoch], weights))  # an ensemble's are by member
        for one, other in zip(*pair, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(where))


def _places(whole: Trained, folder: Path) -> list[tuple[int, int]]:
    path = folder / "any.npz"
    found = []
    for data, _ in whole.reporter.checkpoints:
        path.write_bytes(data)
        body = Checkpoint.read(path).body
        found.append((body["epoch"], body["step"]))
    return found


def test_a_run_goes_on_from_the_middle_of_an_epoch_and_of_its_validation(tmp_path: Path) -> None:
    request = request_of(_table(), _spec(_RECURRENT, **_STOPPING), tmp_path)
    whole = _trained(request)
    places = _places(whole, tmp_path)
    assert places[:4] == [(0, 16), (0, 30), (1, 0), (1, 16)]  # 30: all batches, and a part of the validation
    for index in (1, 3):
        _assert_equal(_resumed(whole, request, index), whole, places[index])


_OPTIMIZERS: list[Any] = [
    *("SGD", "Adam", "AdamW", "Nadam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Ftrl", "Lion", "Lamb", "Adafactor"),
    "Muon",
    {"SGD": {"momentum": 0.9, "nesterov": True}},
    {"RMSprop": {"momentum": 0.9, "centered": True}},
    {"Adam": {"amsgrad": True}},
    {"Adam": {"use_ema": True, "ema_overwrite_frequency": 7}},
    {"Adam": {"gradient_accumulation_steps": 3}},
]
_DECAY = {"CosineDecay": {"initial_learning_rate": 0.01, "decay_steps": 100}}
_NOISE = [{"Dense": 8}, {"GaussianNoise": 0.1}, {"GaussianDropout": 0.2}, {"AlphaDropout": 0.1}]
_RUNS: dict[str, dict[str, Any]] = {
    **{str(optimizer): _spec(optimizer=optimizer) for optimizer in _OPTIMIZERS},
    "schedule": _spec(optimizer={"Adam": {"learning_rate": _DECAY}}, warmup={"steps": 30}),
    "callbacks": _spec(**_STOPPING),
    "noise": _spec(_NOISE),
    "recurrent": _spec(_RECURRENT),
    "steps": _spec(steps_per_epoch=50),
    "switch": _spec(switches=[{"after": 1, "optimizer": "SGD"}]),
    "mixed precision": _spec(mixed_precision=True),
    "one step a call": _spec(jit_compile=True),
    "restarts": _spec(restarts=2),
    "ensemble": {**_spec(), "ensemble": 3},
}


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", _RUNS)
def test_every_kind_of_run_goes_on_from_anywhere(tmp_path: Path, name: str) -> None:
    request = request_of(_table(), _RUNS[name], tmp_path)
    whole = _trained(request)
    for index in range(len(whole.reporter.checkpoints)):
        _assert_equal(_resumed(whole, request, index), whole, index)


@pytest.mark.parametrize(
    "spooled", [pytest.param(True, id="spooled", marks=pytest.mark.long), pytest.param(False, id="from the file")]
)
def test_streamed_rows_keep_their_order_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spooled: bool
) -> None:
    """A worker with more memory, or more room on its disk, goes on as the one before it began."""
    monkeypatch.setattr(preparation, "SAMPLE_ROWS", {"train": 30, "validation": 20, "test": 20})
    monkeypatch.setattr(feeds, "PIECE", 20)
    request = request_of(_table(), _spec(batch_size=3), tmp_path)
    with monkeypatch.context() as small:
        small.setattr(preparation, "memory_budget", lambda: 100)
        if not spooled:
            small.setattr("workers.trainer.train.free_bytes", lambda _: 0)
        whole = _trained(request)
    _assert_equal(_resumed(whole, request, 0), whole)


@pytest.mark.long
def test_rows_are_not_encoded_anew_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed rows are encoded as a sample says: a worker that has to stream them starts over, and says so."""
    monkeypatch.setattr(preparation, "SAMPLE_ROWS", {"train": 30, "validation": 20, "test": 20})
    request = request_of(_table(), _spec(epochs=1), tmp_path)
    whole = _trained(request)
    path = tmp_path / "resident.npz"
    path.write_bytes(whole.reporter.checkpoints[0][0])
    monkeypatch.setattr(preparation, "memory_budget", lambda: 100)
    anew = _trained(replace(request, checkpoint=path))
    assert any("training starts over" in message for _, message, _ in anew.reporter.events)
