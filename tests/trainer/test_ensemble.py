"""Ensembles: members trained stacked, each held back from a fold; served as one network; resumed; sequential."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pyarrow as pa
import pytest

from fitserve.artifacts import ONE_ROW_PROPERTY, onnx_session
from fitserve.encoder import Encoder
from fitserve.spec.spec import parse
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.data import preparation
from workers.trainer.export.export import raw_values, serve
from workers.trainer.interface import TrainingFailed, TrainingResult, TrainingStopped
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
ROWS = 90
DENSE = {"Dense": {"units": 6, "activation": "tanh"}}


def table(rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(rows, 3))
    return pa.table(
        {
            "a": x[:, 0],
            "b": x[:, 1],
            "c": x[:, 2],
            "day": np.arange(rows),
            "shop": [f"s{at % 9}" for at in range(rows)],
            "side": np.where(x[:, 0] * x[:, 1] > 0, "in", "out"),
            "sum": 50 + 20 * x.sum(axis=1),
        }
    )


def spec(members: int = 3, **more: Any) -> dict[str, Any]:
    training = {"epochs": 5, "batch_size": 16, "seed": 4, **more.pop("training", {})}
    body = {"target": "side", "features": ["a", "b", "c"], "network": [DENSE], "training": training}
    return {**body, "ensemble": members, **more}


def finish(body: dict[str, Any], folder: Path, **more: Any) -> tuple[TrainingResult, RecordingReporter]:
    reporter = RecordingReporter()
    return train(request_of(table(), body, folder, **more), reporter), reporter


def members_of(result: TrainingResult) -> list[list[np.ndarray]]:
    """Weights of every member, from the plain layers of model.keras."""
    raw = keras.models.load_model(result.files["keras"])
    network = next(layer for layer in raw.layers if isinstance(layer, keras.Model))
    by_member: dict[str, list[np.ndarray]] = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            by_member.setdefault(layer.name.rpartition("_member")[2], []).extend(layer.get_weights())
    return [by_member[member] for member in sorted(by_member)]


@pytest.mark.parametrize("validation", ["folds", "holdout"])
def test_a_stacked_member_is_the_same_member_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: str
) -> None:
    body = spec(ensemble={"members": 3, "validation": validation})
    stacked, reporter = finish(body, tmp_path / "stacked")
    assert any("3 members train as one stacked network" in message for _, message, _ in reporter.events)
    monkeypatch.setattr("workers.trainer.ready_run.why_not_stacked", lambda setup: "this test")
    alone, reporter = finish(body, tmp_path / "alone")
    assert {row["trial"] for row in reporter.epochs} == {0, 1, 2}
    for one, other in zip(members_of(stacked), members_of(alone), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert stacked.result["ensemble"]["losses"] == pytest.approx(alone.result["ensemble"]["losses"], abs=1e-5)
    for part, figures in stacked.result["metrics"].items():
        assert figures == pytest.approx(alone.result["metrics"][part], abs=1e-5), part


@pytest.mark.parametrize("target", ["side", "sum", {"columns": ["sum"], "clip": True}, "shop"])
def test_the_serving_graph_is_small_and_gives_what_keras_gives(tmp_path: Path, target: Any) -> None:
    network = [DENSE, {"BatchNormalization": {}}, {"Dropout": 0.2}, {"Dense": {"units": 5, "activation": "softmax"}}]
    result, _ = finish(spec(4, target=target, network=network), tmp_path)
    graph = onnx.load(result.files["onnx"]).graph
    kernels = [list(one.dims) for one in graph.initializer if len(one.dims) == 3 and one.dims[1] > 1]
    assert [dims[0] for dims in kernels] == [4, 4]
    assert len(graph.node) < 30  # with a calibration of each output
    encoder, rows = Encoder.from_json(result.manifest["encoder"]), table()
    raw = keras.models.load_model(result.files["keras"])
    expected = raw({name: keras.ops.convert_to_tensor(v) for name, v in raw_values(encoder, rows).items()})
    served = serve(onnx_session(result.files["onnx"]), encoder, rows)
    for name, values in served.items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-5)
    network = next(layer for layer in raw.layers if isinstance(layer, keras.Model))
    assert any(isinstance(layer, keras.layers.Average) for layer in network.layers)


def test_an_embedding_is_stacked_too(tmp_path: Path) -> None:
    network = [
        {"Embedding": {"input_dim": 11, "output_dim": 3}, "name": "own", "inputs": ["shop"]},
        {"Flatten": {}, "name": "flat"},
        {"Concatenate": {}, "inputs": ["features", "flat"]},
        DENSE,
    ]
    result, reporter = finish(spec(3, features=["a", "b", {"shop": "index"}], network=network), tmp_path)
    assert any("as one stacked network" in message for _, message, _ in reporter.events)
    assert not any("Keras's exporter" in message for _, message, _ in reporter.events)
    assert result.result["parity"]["max_rel"] <= 1e-5
    assert [one.op_type for one in onnx.load(result.files["onnx"]).graph.node].count("Gather") == 1


MANY_KINDS = [
    *({"Dense": {"units": 48, "activation": "relu"}}, {"Dropout": 0.1}, {"Dense": {"units": 48}, "name": "second"}),
    *({"ReLU": {}}, {"Dense": {"units": 6, "activation": "softmax"}}, {"BatchNormalization": {}, "name": "scaled"}),
    {"Concatenate": {}, "inputs": ["scaled", "second", "features"]},
    {"Dense": {"units": 5, "activation": "relu"}},
]


@pytest.mark.parametrize(("network", "target"), [([DENSE], "y"), (MANY_KINDS, ["y", "z"])], ids=["usual", "many_kinds"])
def test_a_row_of_many_zeros_is_served_by_the_others(tmp_path: Path, network: list[Any], target: Any) -> None:
    rng = np.random.default_rng(7)
    names = [f"n{at}" for at in rng.integers(0, 300, 900)]
    numbers = rng.normal(size=(2, 900))
    rows = pa.table({"name": names, "x": numbers[0], "y": [str(name < "n2") for name in names], "z": numbers[1]})
    features = [{"name": {"one_hot": {"max_categories": 300}}}, "x"]
    body = {**spec(3, target=target), "features": features, "network": network}
    result = train(request_of(rows, body, tmp_path), RecordingReporter())
    assert [one.op_type for one in onnx.load(result.files["onnx"]).graph.node].count("If") == 1
    session, encoder = onnx_session(result.files["onnx"]), Encoder.from_json(result.manifest["encoder"])
    together = serve(session, encoder, rows)  # each number of rows has its own operators: one, a few, many
    for size in (1, 20, 64, 65):
        served = [serve(session, encoder, rows.slice(at, size)) for at in range(0, min(900, 20 * size), size)]
        for output, whole in together.items():
            parts = np.concatenate([one[output] for one in served])
            np.testing.assert_allclose(parts, whole[: len(parts)], rtol=1e-5, atol=1e-6)
    assert ONE_ROW_PROPERTY in session.get_modelmeta().custom_metadata_map
    one_row = onnx_session(result.files["onnx"], rows=1)
    for at in range(20):
        encoded = encoder.encode(rows.slice(at, 1))
        for alone, usual in zip(one_row.run(None, encoded), session.run(None, encoded), strict=True):
            assert alone.tobytes() == usual.tobytes()
    for own, count in ((session, 1), (session, 2), (one_row, 1)):
        zeros = {one.name: np.zeros((count, *one.shape[1:]), np.float32) for one in session.get_inputs()}
        assert np.isfinite(own.run(None, zeros)[0]).all()


@pytest.mark.parametrize("epochs", [60, 8])  # stopped, and not
def test_all_members_stop_together_and_keep_their_best_weights(tmp_path: Path, epochs: int) -> None:
    stopping = {"patience": 3, "restore_best_weights": True}
    body = spec(training={"epochs": epochs, "early_stopping": stopping, "optimizer": {"Adam": 0.1}})
    result, reporter = finish(body, tmp_path)
    losses = [row["logs"]["val_loss"] for row in reporter.epochs]
    best = int(np.argmin(losses)) + 1
    assert result.result["best_epoch"] == best
    assert len(losses) == min(epochs, best + 3)
    # The out-of-fold loss of the kept weights is that epoch's.
    assert result.result["metrics"]["validation"]["loss"] == pytest.approx(losses[best - 1], rel=1e-5)
    assert np.mean(result.result["ensemble"]["losses"]) == pytest.approx(losses[best - 1], rel=1e-5)


def test_validation_figures_are_out_of_fold_and_the_test_part_is_never_seen(tmp_path: Path) -> None:
    body = spec(
        3,
        training={"epochs": 150, "optimizer": {"Adam": 0.05}},
        network=[{"Dense": {"units": 64, "activation": "relu"}}],
    )
    request = request_of(table(), body, tmp_path)
    result = train(request, RecordingReporter())
    prepared = preparation.prepare(
        request, parse(request.spec), preparation.DatasetFacts.model_validate(request.facts), RecordingReporter()
    )
    seen = {int(row) for fold in prepared.folds for part in (fold.train, fold.held_out) for row in part}
    assert not seen & set(prepared.parts.test.tolist())
    held_out = np.sort(np.concatenate([fold.held_out for fold in prepared.folds]))
    assert held_out.tolist() == prepared.parts.train.tolist()
    metrics = result.result["metrics"]
    assert metrics["train"]["loss"] < metrics["validation"]["loss"]
    gain = result.result["ensemble"]["gain"]
    assert gain["part"] == "test"
    assert gain["rows"] == len(prepared.parts.test)
    assert gain["targets"]["side"]["ensemble"] < gain["targets"]["side"]["one_member"]


@pytest.mark.parametrize(
    ("after", "stacked"),
    [(1, True), (4, False), *(pytest.param(*pair, marks=pytest.mark.long) for pair in ((4, True), (1, False)))],
)
def test_a_resumed_ensemble_ends_where_an_undisturbed_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, stacked: bool
) -> None:
    if not stacked:
        monkeypatch.setattr("workers.trainer.ready_run.why_not_stacked", lambda setup: "this test")
        after *= 2
    training = {
        "epochs": 6,
        "early_stopping": {"patience": 2, "restore_best_weights": True},
        "reduce_lr_on_plateau": {"patience": 1},
        "keep_epochs": [2],
    }
    body = spec(3, network=[DENSE, {"Dropout": 0.3}], training=training)
    whole = train(request_of(table(), body, tmp_path / "whole"), RecordingReporter())
    request = request_of(table(), body, tmp_path / "first")
    first = RecordingReporter(stop_after=after, reason="release")
    with pytest.raises(TrainingStopped):
        train(request, first)
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(first.checkpoints[-1][0])
    second = RecordingReporter()
    (tmp_path / "second").mkdir()
    resumed = train(replace(request, folder=tmp_path / "second", checkpoint=path), second)
    assert any("Resumed" in message for _, message, _ in second.events)
    assert resumed.manifest["receipt"]["weights"] == whole.manifest["receipt"]["weights"]
    assert resumed.result["ensemble"]["losses"] == whole.result["ensemble"]["losses"]
    assert resumed.kept_epochs.keys() == whole.kept_epochs.keys() == {2}
    kept = [run.kept_epochs[2].manifest["receipt"]["weights"] for run in (whole, resumed)]
    assert kept[0] == kept[1] != whole.manifest["receipt"]["weights"]


def test_answers_stay_within_the_training_range(tmp_path: Path) -> None:
    linear = {"target": {"column": "sum", "standardize": True}, "network": [], "training": {"epochs": 1}}
    far = pa.table({name: [1e6, -1e6] if name in "abc" else table().column(name)[:2] for name in table().column_names})
    answers = {}
    for clip in (True, False):
        result, _ = finish(spec(2, **linear, clip=clip), tmp_path / str(clip))
        encoder = Encoder.from_json(result.manifest["encoder"])
        answers[clip] = serve(onnx_session(result.files["onnx"]), encoder, far)["sum"].ravel()
        target = result.manifest["targets"]["targets"][0]
        assert (target["low"] is not None) == clip
        if clip:
            low, high = target["low"], target["high"]
            assert low <= answers[True].min() <= answers[True].max() <= high
    assert np.abs(answers[False]).max() > 1e4


def test_a_member_that_diverges_fails_the_run(tmp_path: Path) -> None:
    body = spec(3, target="sum", training={"optimizer": {"SGD": 1e30}})
    with pytest.raises(TrainingFailed) as failed:
        finish(body, tmp_path)
    assert failed.value.cause == "diverged"
