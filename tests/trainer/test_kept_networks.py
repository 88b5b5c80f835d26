"""Networks that a warm trainer keeps: a run in it is bit-identical to the run in a fresh trainer."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.spec import parse
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer import ready_run
from workers.trainer.engine.initial_values import InitialValues, set_seeds, values_of
from workers.trainer.engine.kept_networks import KEPT, KeptNetworks, tidy_up
from workers.trainer.engine.network import build_network
from workers.trainer.ready_run import make_ready, run_trials
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
TABLE = pa.table(
    {
        "a": X[:, 0],
        "b": X[:, 1],
        "kind": [("red", "green", "blue")[i % 3] for i in range(90)],
        "side": ["in" if row.sum() > 0 else "out" for row in X],
    }
)
NETWORK = [{"Dense": {"units": 6, "activation": "relu"}}, {"Dropout": 0.2}, {"Dense": 4}]


def _spec(network: Any = NETWORK, **training: Any) -> dict[str, Any]:
    more = {name: training.pop(name) for name in ("rows", "ensemble") if name in training}
    own = {} if network is None else {"network": network}
    return {"target": "side", **own, **more, "training": {"epochs": 3, "batch_size": 16, "seed": 1, **training}}


def _regularised(strength: float) -> list[Any]:
    return [{"Dense": {"units": 6, "activation": "relu", "kernel_regularizer": {"L2": strength}}}]


RUNS = {
    "as it is": _spec(),
    "another seed": _spec(seed=2),
    "another learning rate": _spec(optimizer={"Adam": {"learning_rate": 0.02}}),
    "a schedule": _spec(
        optimizer={
            "Adam": {
                "learning_rate": {
                    "ExponentialDecay": {"initial_learning_rate": 0.01, "decay_steps": 4, "decay_rate": 0.5}
                }
            }
        }
    ),
    "a warm-up in epochs": _spec(warmup={"epochs": 2}),
    "a warm-up in epochs, fewer rows": _spec(warmup={"epochs": 2}, rows=60),
    "another dropout": _spec([NETWORK[0], {"Dropout": 0.6}, NETWORK[2]]),
    "momentum": _spec(optimizer={"SGD": {"learning_rate": 0.1, "momentum": 0.9}}),
    "L2": _spec(_regularised(0.01)),
    "more L2": _spec(_regularised(0.1)),
    "fewer rows": _spec(rows=60),
    "a rate that falls": _spec(reduce_lr_on_plateau={"patience": 1, "min_delta": 1.0}, epochs=4),
    "averaged weights": _spec(optimizer={"Adam": {"use_ema": True, "ema_momentum": 0.5}}),
    "restarts": _spec(restarts=3),
    "an ensemble": _spec(None, ensemble={"members": 3}),
    "an ensemble from another seed": _spec(
        None, ensemble={"members": 3}, seed=7, optimizer={"Adam": {"learning_rate": 0.01}}
    ),
}

SHORT = ["another seed", "fewer rows", "an ensemble"]


def _trained(body: dict[str, Any], folder: Path) -> tuple[Any, ...]:
    """Train; return the logs of every epoch with the layers' figures, and all weights."""
    body = dict(body)
    request = request_of(TABLE.slice(0, body.pop("rows", 90)), body, folder)
    report = RecordingReporter()
    ready = make_ready(request, parse(request.spec), DatasetFacts.model_validate(request.facts), report)
    outcome = run_trials(ready.setup, None)
    weights = [w.tobytes() for w in ready.setup.compiled.model.get_weights()]
    members = [w.tobytes() for one in outcome.members.weights for w in one] if outcome.members else []
    return report.epochs, report.events, weights, members


@pytest.mark.parametrize("names", [SHORT, pytest.param(list(RUNS), marks=pytest.mark.long)], ids=["short", "all"])
def test_runs_after_each_other_equal_each_alone(names: list[str], tmp_path: Path) -> None:
    alone = {}
    for name in names:
        KEPT.clear()
        alone[name] = _trained(RUNS[name], tmp_path)
    tidy_up()
    order = [*names, *np.random.default_rng(3).permutation(names)]
    for name in order:
        assert _trained(RUNS[name], tmp_path) == alone[name], name
        tidy_up()


def test_a_second_run_leaves_the_files_of_a_fresh_one(tmp_path: Path) -> None:
    def files(name: str) -> dict[str, bytes]:
        result = train(request_of(TABLE, _spec(), tmp_path / name), RecordingReporter())
        with zipfile.ZipFile(result.files["keras"]) as archive:
            inside = {one: archive.read(one) for one in sorted(archive.namelist()) if one != "metadata.json"}
        return {"onnx": result.files["onnx"].read_bytes(), **inside}

    KEPT.clear()
    tidy_up()  # or the layers' names count on from those of the tests before
    fresh = files("fresh")
    tidy_up()
    train(request_of(TABLE, _spec(seed=9), tmp_path / "other"), RecordingReporter())
    tidy_up()
    warm = files("warm")
    assert {name for name in {*warm, *fresh} if warm.get(name) != fresh.get(name)} == set()


@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        [{"Dense": {"units": 5, "kernel_initializer": {"HeNormal": {"seed": 4}}}}, "BatchNormalization"],
        [{"Dense": {"units": 5, "kernel_initializer": "Orthogonal"}}, {"GaussianNoise": 0.1}, {"Dropout": 0.0}],
    ],
)
def test_initial_values_are_those_of_a_network_that_is_built(network: Any, tmp_path: Path) -> None:
    spec = parse(request_of(TABLE, _spec(network), tmp_path).spec)

    def built(seed: int) -> Any:
        set_seeds(seed)
        return build_network(spec)

    values = InitialValues(built(3), 3, lambda: build_network(spec))
    for seed in (8, 9, 10):  # the first is compared with a network that is built, the others are drawn
        drawn = values.of(seed)
        assert [value.tobytes() for value in drawn] == [value.tobytes() for value in values_of(built(seed))]
    assert values._checked


def test_a_later_run_of_the_same_shape_builds_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def counted(spec: Any) -> Any:
        built.append(1)
        return build_network(spec)

    monkeypatch.setattr(ready_run, "build_network", counted)
    KEPT.clear()
    _trained(_spec(), tmp_path)
    tidy_up()
    before = len(built)
    _trained(_spec(seed=5), tmp_path)
    assert len(built) == before
    KEPT.clear()


def test_kept_networks_are_bounded(tmp_path: Path) -> None:
    def made(units: int) -> Any:
        request = request_of(TABLE, _spec([{"Dense": units}]), tmp_path)
        facts = DatasetFacts.model_validate(request.facts)
        return make_ready(request, parse(request.spec), facts, RecordingReporter()).setup.network

    KEPT.clear()
    networks = [made(units) for units in (2, 3, 4)]
    own = KeptNetworks(networks=2, size=sum(network.size for network in networks))
    for key, network in zip("abc", networks, strict=True):
        own.take(key, lambda network=network: network)
    assert own.take("c", lambda: networks[0])[1] is False, "lent, so not lent again"
    own.take_back()
    assert [own.take(key, lambda: networks[0])[1] for key in "abc"] == [False, True, True]
    small = KeptNetworks(networks=9, size=networks[2].size)
    small.take("c", lambda: networks[2])
    small.take_back()
    assert len(small) == 1
    small.take("b", lambda: networks[1])
    small.take_back()
    assert small.take("c", lambda: networks[2])[1] is False
    KEPT.clear()
