"""Kept epochs: each is the network that a run of that many epochs ends with."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest

from fitserve.encoder import Encoder
from tests.trainer.requests import RecordingReporter, request_of, train_only
from workers.trainer.channel import Channel, decoded
from workers.trainer.export import export as exporting
from workers.trainer.interface import TrainingResult, TrainingStopped
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
ROWS = 60
KINDS = {"y": "categorical"}


def table() -> pa.Table:
    x = np.random.default_rng(3).normal(size=(ROWS, 2))
    part = ["validation" if at % 5 == 0 else "train" for at in range(ROWS)]
    return pa.table({"a": x[:, 0], "b": x[:, 1], "y": (x[:, 0] * x[:, 1] > 0).astype(int), "part": part})


def spec(epochs: int, **training: Any) -> dict[str, Any]:
    network = [{"Dense": {"units": 4, "activation": "tanh"}}]
    plain = {"epochs": epochs, "batch_size": 16, "optimizer": {"Adam": {"learning_rate": 0.05}}}
    return {"target": "y", "network": network, "split": {"column": "part"}, "training": {**plain, **training}}


def predictions(files: dict[str, Path], manifest: dict[str, Any]) -> Any:
    encoder = Encoder.from_json(manifest["encoder"])
    (values,) = exporting.serve(exporting.onnx_session(files["onnx"]), encoder, table()).values()
    return values


def test_a_kept_epoch_is_what_a_shorter_run_ends_with(tmp_path: Path) -> None:
    """Its weights are the average, as at the end of a run; the next epochs go on from the weights themselves."""
    optimizer = {"Adam": {"learning_rate": 0.05, "use_ema": True, "ema_momentum": 0.9}}
    plain = train_only(
        request_of(table(), spec(6, optimizer=optimizer), tmp_path / "plain", KINDS), RecordingReporter()
    )
    wanted = spec(6, optimizer=optimizer, keep_epochs=[4, 2])
    keeping = train(request_of(table(), wanted, tmp_path / "keeping", KINDS), RecordingReporter())
    assert keeping.manifest["receipt"]["weights"] == plain.manifest["receipt"]["weights"]  # keeping disturbs nothing
    assert sorted(keeping.kept_epochs) == [2, 4]
    shorter = train(request_of(table(), spec(4, optimizer=optimizer), tmp_path / "shorter", KINDS), RecordingReporter())
    kept = keeping.kept_epochs[4]
    manifest = {**keeping.manifest, **kept.manifest}
    np.testing.assert_array_equal(predictions(kept.files, manifest), predictions(shorter.files, shorter.manifest))
    assert manifest["epoch"] == 4
    assert manifest["metrics"] == shorter.manifest["metrics"]
    assert manifest["receipt"]["weights"] == shorter.manifest["receipt"]["weights"]
    assert manifest["parity"]["max_rel"] <= 1e-5
    model = keras.models.load_model(kept.files["keras"], safe_mode=True)
    rows = exporting.raw_values(Encoder.from_json(manifest["encoder"]), table())
    from_keras = model({name: keras.ops.convert_to_tensor(value) for name, value in rows.items()})["y"].numpy()
    np.testing.assert_allclose(from_keras, predictions(kept.files, manifest), rtol=1e-5, atol=1e-6)
    ours, theirs = (Channel(end) for end in socket.socketpair())
    threading.Thread(target=ours.send, args=({"result": keeping},)).start()
    message = theirs.receive(5)
    assert message is not None
    assert decoded(TrainingResult, message["result"]) == keeping


@pytest.mark.parametrize("stacked", [True, False])
def test_kept_epochs_are_the_winners_and_survive_a_resumption(tmp_path: Path, stacked: bool) -> None:
    """Of three trials side by side, and one after the other (ReduceLROnPlateau cannot be stacked)."""
    more = {} if stacked else {"reduce_lr_on_plateau": True}
    wanted = spec(4, keep_epochs=[1, 3], restarts=3, **more)
    reporter = RecordingReporter()
    whole = train(request_of(table(), wanted, tmp_path / "whole", KINDS), reporter)
    assert any("stacked network" in message for _, message, _ in reporter.events) == stacked
    best = int(whole.result["best_trial"])
    winner = train(request_of(table(), spec(3, seed=best, **more), tmp_path / "winner", KINDS), RecordingReporter())
    np.testing.assert_allclose(
        predictions(whole.kept_epochs[3].files, whole.manifest),
        predictions(winner.files, winner.manifest),
        rtol=1e-3,
        atol=1e-4,
    )
    reporter = RecordingReporter(stop_after=6, reason="release")  # in the middle of the run
    with pytest.raises(TrainingStopped):
        train(request_of(table(), wanted, tmp_path / "first", KINDS), reporter)
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(reporter.checkpoints[-1][0])
    resumed = train(request_of(table(), wanted, tmp_path / "second", KINDS, checkpoint=path), RecordingReporter())
    assert sorted(resumed.kept_epochs) == [1, 3]
    for epoch, one in resumed.kept_epochs.items():
        assert one.manifest["receipt"]["weights"] == whole.kept_epochs[epoch].manifest["receipt"]["weights"]


def test_an_epoch_that_was_never_reached_is_reported(tmp_path: Path) -> None:
    stopping = {"monitor": "val_loss", "patience": 0, "min_delta": 10.0}
    reporter = RecordingReporter()
    wanted = spec(9, keep_epochs=[1, 9], early_stopping=stopping)
    result = train(request_of(table(), wanted, tmp_path, KINDS), reporter)
    assert sorted(result.kept_epochs) == [1]
    assert ("warn", "Training ended before epochs that were to be kept: [9].", {"epochs": [9]}) in reporter.events
