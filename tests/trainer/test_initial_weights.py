"""Training that starts from another run's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve import artifacts, weights_file
from fitserve.blobs import FolderStore
from fitserve.encoder import Encoder
from fitserve.spec.spec import SpecRefused
from fitserve.spec.warm_start import WeightsSource
from fitserve.trained_weights import source_of
from tests.trainer.requests import RecordingReporter, request_of, train_only
from workers.trainer.interface import TrainingRequest, TrainingResult, TrainingStopped
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
ROWS = 90
NETWORK = [{"Dense": {"units": 4, "activation": "tanh"}}, "BatchNormalization", {"Dense": {"units": 4}}]
KINDS = {"y": "categorical"}


def table(rows: int = ROWS, colours: str = "rgb") -> pa.Table:
    random = np.random.default_rng(5)
    x = random.normal(2.0, 3.0, size=(rows, 2))
    colour = [colours[at % len(colours)] for at in range(rows)]
    part = ["validation" if at % 5 == 0 else "train" for at in range(rows)]
    label = [str(int(one)) for one in x[:, 0] * x[:, 1] > 4]
    return pa.table({"a": x[:, 0], "b": x[:, 1], "c": colour, "y": label, "z": x.sum(axis=1), "part": part})


def spec(**more: Any) -> dict[str, Any]:
    plain = {"epochs": 6, "batch_size": 16, "optimizer": {"SGD": {"learning_rate": 0.05}}}
    training = {**plain, **more.pop("training", {})}
    return {"target": "y", "split": {"column": "part"}, "training": training, **more}


class Trained:
    """A trained network as the artifact that another run begins with."""

    def __init__(self, request: TrainingRequest, folder: Path) -> None:
        self.result: TrainingResult = train(request, RecordingReporter())
        blobs = FolderStore(folder / "blobs")
        blobs.prepare()
        artifact, _ = artifacts.write(blobs, self.result.files, {**self.result.manifest, "run": "run_1"})
        self.source: WeightsSource = source_of(artifact, "the run run_1", {"run": "run_1"})
        self.files = {"source": blobs.local(artifact.sha256, folder), "weights": self.result.files["weights"]}
        self.weights = weights_file.read(self.files["weights"])

    def request(self, rows: pa.Table, body: dict[str, Any], folder: Path, **more: Any) -> TrainingRequest:
        return request_of(rows, body, folder, KINDS, self.source, **self.files, **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("source")
    body = spec(network=NETWORK, features=["a", "b", "c"], training={"early_stopping": {"restore_best_weights": True}})
    return Trained(request_of(table(), body, folder, KINDS), folder)


def test_without_a_learning_rate_it_reproduces_the_figures_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    body = spec(initial_weights="run_1", training={"epochs": 2, "optimizer": {"SGD": {"learning_rate": 0.0}}})
    # The running averages of a BatchNormalization move without a learning rate too, unless they are frozen.
    body["initial_weights"] = {"run": "run_1", "freeze": "batch_normalization"}
    again = train(trained.request(table(), body, tmp_path), RecordingReporter())
    assert again.result["metrics"]["validation"] == trained.result.result["metrics"]["validation"]
    assert again.manifest["receipt"]["weights"] == trained.result.manifest["receipt"]["weights"]
    assert again.manifest["receipt"]["initial_weights"]["artifact"] == trained.source.artifact


def test_frozen_layers_stay_and_a_resumed_run_ends_as_one_that_was_not_interrupted(
    trained: Trained, tmp_path: Path
) -> None:
    body = spec(initial_weights={"run": "run_1", "freeze": ["dense", "batch_*"]})
    whole = train(trained.request(table(), body, tmp_path / "whole"), RecordingReporter())
    after = weights_file.read(whole.files["weights"])
    moved = {name for name, array in after.items() if not np.array_equal(array, trained.weights[name])}
    assert moved == {"dense_1/0", "dense_1/1", "y/0", "y/1"}
    killed = RecordingReporter(stop_after=3, reason="release")
    with pytest.raises(TrainingStopped):
        train(trained.request(table(), body, tmp_path / "killed"), killed)
    last = tmp_path / "last.npz"
    last.write_bytes(killed.checkpoints[-1][0])
    resumed = train_only(trained.request(table(), body, tmp_path / "resumed", checkpoint=last), RecordingReporter())
    assert resumed.manifest["receipt"]["weights"] == whole.manifest["receipt"]["weights"]


def test_more_rows_are_encoded_as_for_the_source(trained: Trained, tmp_path: Path) -> None:
    """Its means and the places of its categories stay, whatever the new rows would give."""
    request = trained.request(table(150, "arg"), spec(initial_weights="run_1", training={"epochs": 1}), tmp_path)
    assert request.spec["initial_weights"]["encoding"] == "source"
    more = train(request, RecordingReporter())
    old, new = (Encoder.from_json(one.manifest["encoder"]) for one in (trained.result, more))
    assert new == old
    assert more.manifest["parity"]["max_rel"] <= 1e-5


def test_another_target_takes_the_body_and_begins_its_output_from_the_seed(trained: Trained, tmp_path: Path) -> None:
    body = spec(initial_weights={"run": "run_1", "freeze": ["dense", "dense_1", "batch_normalization"]}, target="z")
    request = trained.request(table(), body, tmp_path)
    assert request.spec["initial_weights"]["reinitialize"] == ["z"]
    found = weights_file.read(train(request, RecordingReporter()).files["weights"])
    assert {name for name in found if np.array_equal(found[name], trained.weights.get(name))} == {
        name for name in trained.weights if not name.startswith("y/")
    }


def test_members_of_an_ensemble_begin_with_a_member_each(tmp_path: Path) -> None:
    body = spec(network=NETWORK[:1], ensemble={"members": 2}, training={"epochs": 2})
    source = Trained(request_of(table(), body, tmp_path, KINDS), tmp_path)
    assert source.weights["dense/0"].shape[0] == 2
    still = spec(initial_weights="run_1", training={"epochs": 1, "optimizer": {"SGD": {"learning_rate": 0.0}}})
    again = train(source.request(table(), still, tmp_path / "again"), RecordingReporter())
    assert again.manifest["receipt"]["weights"] == source.result.manifest["receipt"]["weights"]
    assert again.result["metrics"]["validation"] == source.result.result["metrics"]["validation"]
    with pytest.raises(SpecRefused, match="an ensemble of 2 networks; the spec trains 1"):
        source.request(table(), {**still, "ensemble": False}, tmp_path / "one")
