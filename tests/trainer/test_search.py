"""Searches: a stacked trial equals the same trial alone, and an interrupted search resumes from its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.spec.resolve_search import search_of, trial_spec
from fitserve.states import STACKED_TRIALS
from tests.trainer.requests import RecordingReporter, facts_of, request_of, train_only
from workers.trainer.interface import TrainingFailed, TrainingStopped, TrialAssignment
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


def _table(rows: int = 80) -> pa.Table:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 3))
    label = np.where(x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=rows) > 0, "in", "out")
    return pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "side": label})


def _spec(network: Any = None, search: Any = None, **training: Any) -> dict[str, Any]:
    network = network or [{"Dense": {"units": 8, "activation": "relu"}}, {"Dropout": 0.2}]
    own = {"epochs": 4, "batch_size": 16, "seed": 3, **training}
    return {"target": "side", "network": network, "training": own, "search": search or {}}


def _of(values: Any) -> dict[str, Any]:
    return {"search": values}


def _adam(**arguments: Any) -> dict[str, Any]:
    return {"optimizer": {"Adam": arguments}}


def _dense(regularizer: Any, rate: Any = 0.2) -> list[Any]:
    return [{"Dense": {"units": 8, "activation": "relu", "kernel_regularizer": regularizer}}, {"Dropout": rate}]


SEARCHED = {
    "seed": _spec(seed=_of([3, 4, 5])),
    "learning_rate": _spec(**_adam(learning_rate=_of([0.001, 0.01, 0.1]))),
    "schedule": _spec(
        optimizer={
            "SGD": {
                "learning_rate": {
                    "ExponentialDecay": {
                        "initial_learning_rate": 0.1,
                        "decay_steps": 4,
                        "decay_rate": _of([0.5, 0.9]),
                    }
                }
            }
        }
    ),
    "weight_decay": _spec(optimizer={"AdamW": {"weight_decay": _of([0.0, 0.1, 0.3])}}),
    "momentum": _spec(optimizer={"SGD": {"learning_rate": 0.05, "momentum": _of([0.0, 0.5, 0.9]), "nesterov": True}}),
    "rho": _spec(optimizer={"RMSprop": {"rho": _of([0.8, 0.95]), "momentum": _of([0.0, 0.5])}}),
    "beta_and_epsilon": _spec(**_adam(beta_1=_of([0.8, 0.9]), epsilon=_of([1e-7, 1e-2]))),
    "penalty": _spec(_dense({"L1L2": {"l1": _of([0.0, 0.01]), "l2": _of([0.0, 0.05])}})),
    "dropout": _spec([{"Dense": 8}, {"Dropout": _of([0.0, 0.3, 0.6])}, {"Dense": 4}, {"Dropout": 0.1}]),
    "label_smoothing": _spec(label_smoothing=_of([0.0, 0.1, 0.3])),
}


# One value that acts on the step, one on the loss, one on the activations; the others in the long form.
SHORT = ("seed", "learning_rate", "schedule", "penalty", "dropout")


@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in SEARCHED]
)
def test_a_stacked_trial_is_what_it_is_alone(tmp_path: Path, what: str) -> None:
    table, reporter = _table(), RecordingReporter()
    body = {**SEARCHED[what], "search": {"sampler": "grid"}}
    request = request_of(table, body, tmp_path / "search")
    result = train_only(request, reporter)
    assert any("stacked" in message for _, message, _ in reporter.events), reporter.events
    search = search_of(request.spec)
    assert search is not None
    assert len(result.result["trials"]) == search.configurations
    rows = {row["trial"]: row for row in reporter.search_trials if row["state"] == "succeeded"}
    for number in (1, len(rows) - 1):
        spec = trial_spec(search, rows[number]["point"], facts_of(table)).spec.to_json()
        alone = RecordingReporter()
        (tmp_path / str(number)).mkdir(exist_ok=True)
        train_only(replace(request, spec=spec, folder=tmp_path / str(number)), alone)
        stacked = [row["logs"] for row in reporter.epochs if row["trial"] == number]
        assert len(stacked) == len(alone.epochs) == 4
        for one, other in zip(stacked, alone.epochs, strict=True):
            for name, value in other["logs"].items():
                assert one[name] == pytest.approx(value, rel=1e-5, abs=1e-5), (number, name)
    best = min(rows.values(), key=lambda row: row["value"])
    assert result.result["best_trial"] == best["trial"]
    assert result.result["search"]["values"] == best["values"]


# One of which the replicas share all that is traced, and one where a trial alone has no dropout to trace.
@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=() if name == "dropout" else pytest.mark.long) for name in SEARCHED]
)
def test_a_stacked_trial_is_reproduced_to_the_bit(tmp_path: Path, what: str) -> None:
    table, reporter = _table(), RecordingReporter()
    request = request_of(table, {**SEARCHED[what], "search": {"sampler": "grid"}}, tmp_path / "search")
    train_only(request, reporter)
    (stack,) = [data for _, _, data in reporter.events if data and STACKED_TRIALS in data]
    rows = {row["trial"]: row for row in reporter.search_trials if row["state"] == "succeeded"}
    assert stack[STACKED_TRIALS] == list(rows)
    search = search_of(request.spec)
    assert search is not None
    for number in (0, len(rows) - 1):
        spec = trial_spec(search, rows[number]["point"], facts_of(table)).spec.to_json()
        spec["training"]["stacked"] = stack["differing"]
        again = RecordingReporter()
        (tmp_path / str(number)).mkdir()
        train_only(replace(request, spec=spec, folder=tmp_path / str(number)), again)
        expected = [row["logs"] for row in reporter.epochs if row["trial"] == number]
        assert [row["logs"] for row in again.epochs] == expected, number


def test_a_trial_is_the_same_to_the_bit_in_any_stack(tmp_path: Path) -> None:
    """Stacks of six, and twice three; the second search also finds the traced network that the first one left."""

    def histories(at_once: int) -> dict[tuple[int, int], dict[str, float]]:
        network = [{"Dense": {"units": 8, "activation": "relu"}}, {"Dropout": _of({"low": 0.0, "high": 0.5})}]
        rates = _adam(learning_rate=_of({"low": 0.001, "high": 0.1, "log": True}))
        body = _spec(network, {"trials": 6, "sampler": "random", "parallel": at_once}, **rates, metrics=["auc"])
        body["training"]["epochs"] = 2
        reporter = RecordingReporter()
        train_only(request_of(_table(), body, tmp_path / str(at_once)), reporter)
        return {(row["trial"], row["epoch"]): row["logs"] for row in reporter.epochs}

    whole = histories(6)
    assert len(whole) == 12
    assert histories(3) == whole


def test_a_search_goes_on_from_its_rows(tmp_path: Path) -> None:
    table = _table()
    body = _spec(
        search={"trials": 6, "parallel": 3, "seed": 1},
        **_adam(learning_rate=_of({"low": 0.001, "high": 0.1, "log": True})),
    )
    whole = RecordingReporter()
    request = request_of(table, body, tmp_path / "whole")
    undisturbed = train_only(request, whole)
    first = RecordingReporter(stop_after=6, reason="release")
    (tmp_path / "first").mkdir()
    with pytest.raises(TrainingStopped):
        train_only(replace(request, folder=tmp_path / "first"), first)
    rows = {row["trial"]: row for row in first.search_trials}
    again = RecordingReporter()
    (tmp_path / "again").mkdir()
    resumed = train_only(replace(request, folder=tmp_path / "again", trials=list(rows.values())), again)

    def ended(*reporters: RecordingReporter) -> list[Any]:
        rows = [row for one in reporters for row in one.search_trials if row["state"] != "running"]
        return sorted((row["trial"], row["point"], row["value"]) for row in rows)

    assert ended(first, again) == ended(whole)
    assert resumed.manifest["receipt"]["weights"] == undisturbed.manifest["receipt"]["weights"]


def test_trials_that_are_behind_end_at_a_rung(tmp_path: Path) -> None:
    reporter = RecordingReporter()
    body = _spec(
        search={"trials": 9, "sampler": "random", "pruner": "asha"},
        epochs=9,
        **_adam(learning_rate=_of({"low": 0.0001, "high": 0.3, "log": True})),
    )
    result = train_only(request_of(_table(), body, tmp_path), reporter)
    ended = {row["trial"]: row for row in reporter.search_trials if row["state"] != "running"}
    assert sorted(row["epochs"] for row in ended.values()) == [1, 1, 1, 1, 1, 1, 3, 3, 9]
    assert result.result["search"]["pruned"] == 8
    epochs = [(row["trial"], row["epoch"]) for row in reporter.epochs]
    assert len(epochs) == len(set(epochs))  # who goes on is not begun again


def test_an_invalid_or_diverging_trial_fails_alone(tmp_path: Path) -> None:
    reporter = RecordingReporter()
    kernels = _of([{"Dense": 4}, {"Conv1D": {"filters": 2, "kernel_size": 3}}])
    body = _spec([kernels], {"sampler": "grid"}, optimizer={"SGD": {"learning_rate": _of([0.1, 1e30])}})
    result = train_only(request_of(_table(), body, tmp_path), reporter)
    reasons = {row["trial"]: row.get("reason") for row in reporter.search_trials if row["state"] == "failed"}
    assert result.result["best_trial"] == 0
    assert sorted(reasons) == [1, 2, 3]
    assert "invalid" in reasons[2]
    assert "invalid" in reasons[3]
    broken = _spec(search={"sampler": "grid"}, optimizer={"SGD": {"learning_rate": _of([1e30, 1e31])}})
    with pytest.raises(TrainingFailed, match="No trial of 2 succeeded"):
        train_only(request_of(_table(), broken, tmp_path / "broken"), RecordingReporter())


def test_a_search_goes_on_within_a_group(tmp_path: Path) -> None:
    table = _table()
    sgd = {"optimizer": {"SGD": {"learning_rate": _of({"low": 0.001, "high": 0.3, "log": True}), "momentum": 0.9}}}
    body = _spec(search={"trials": 6, "sampler": "random", "pruner": "asha"}, epochs=9, **sgd)
    whole = RecordingReporter()
    undisturbed = train_only(request_of(table, body, tmp_path / "whole"), whole)
    first = RecordingReporter(stop_after=6 + 6 + 2 + 2, reason="release")  # after the first rung, before the second
    with pytest.raises(TrainingStopped):
        train_only(request_of(table, body, tmp_path / "first"), first)
    rows = {row["trial"]: row for row in first.search_trials}
    path = tmp_path / "checkpoint"
    path.write_bytes(first.checkpoints[-1][0])
    again = RecordingReporter()
    request = request_of(table, body, tmp_path / "again", trials=list(rows.values()), checkpoint=path)
    resumed = train_only(request, again)
    assert first.epochs + again.epochs == whole.epochs  # no epoch is trained twice
    assert resumed.manifest["receipt"]["weights"] == undisturbed.manifest["receipt"]["weights"]
    ended = [
        [(r["trial"], r["state"], r["value"], r["epochs"]) for r in one.search_trials if r["state"] != "running"]
        for one in (whole, again)
    ]
    assert ended[0] == ended[1]


def test_blocks_of_layers_and_what_trials_that_were_never_begun_say(tmp_path: Path) -> None:
    blocks = [{"Dense": 4}, _of([None, [{"Dense": {"units": _of([2, 3])}}, {"Dropout": 0.1}], {"Dense": 5}])]
    result = train_only(
        request_of(_table(), _spec(blocks, {"sampler": "grid"}, epochs=1), tmp_path / "blocks"),
        (r := RecordingReporter()),
    )
    ended = [row for row in r.search_trials if row["state"] != "running"]
    assert [row["state"] for row in ended] == ["succeeded"] * 4
    assert [row["values"].get("1") or row["values"]["network/1"] for row in ended if "units" in row["values"]] == [
        [{"Dense": {"units": 2}}, {"Dropout": 0.1}],
        [{"Dense": {"units": 3}}, {"Dropout": 0.1}],
    ]
    late = _spec([{"Dense": _of([2, 3, 4])}], {"sampler": "grid", "seconds": 1e-6}, epochs=3)
    result = train(request_of(_table(), late, tmp_path / "late"), (r := RecordingReporter()))
    assert result.result["search"]["succeeded"] == 1
    assert result.result["epochs"] == 1
    assert [row["reason"] for row in r.search_trials if row["state"] == "pruned"] == [
        "The time was up before it began."
    ] * 2


def test_an_ablated_column_of_noise_has_no_effect_and_a_copy_of_the_target_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    target = rng.normal(size=90)
    table = pa.table({"noise": rng.normal(size=90), "copy": target, "y": target})
    body = {
        "target": "y",
        "network": [{"Dense": {"units": 4, "activation": "relu"}}],
        "training": {"epochs": 25, "batch_size": 16, "optimizer": {"Adam": {"learning_rate": 0.03}}},
        "ablate": {"parts": ["feature:noise", "feature:copy"], "seeds": 4},
    }
    result = train_only(request_of(table, body, tmp_path), RecordingReporter()).result
    noise, copy = result["ablation"]["parts"]
    assert (noise["part"], noise["says"], noise["pairs"]) == ("feature:noise", "no effect", 4)
    assert noise["low"] < 0 < noise["high"]
    assert copy["says"] == "helps"
    assert copy["high"] < 0
    assert result["best_spec"]["features"][1]["column"] == "copy"  # what is served is the spec as it stands


@pytest.mark.parametrize("ensemble", [3, "greedy"])
def test_several_trials_are_served_as_one_graph(tmp_path: Path, ensemble: Any) -> None:
    reporter = RecordingReporter()
    body = _spec(
        [{"Dense": {"units": _of([3, 8]), "activation": "tanh"}}, {"Dropout": 0.1}],
        {"sampler": "grid", "ensemble": ensemble},
        epochs=6,
        seed=_of([0, 1, 2]),
        **_adam(learning_rate=0.05),
    )
    trained = train(request_of(_table(160), body, tmp_path), reporter)
    averaged = trained.result["averaged"]
    shares = {one["trial"]: one["share"] for one in averaged["trials"]}
    assert sum(shares.values()) == pytest.approx(1)
    if ensemble == 3:
        rows = sorted((row for row in reporter.search_trials if row["state"] == "succeeded"), key=lambda r: r["value"])
        assert sorted(shares) == sorted(row["trial"] for row in rows[:3])
    else:
        assert trained.result["best_trial"] in shares
        assert averaged["together"] <= averaged["best_trial"]
    # What is served is the average: the exported graph passed the parity gate, and has its loss on validation rows.
    assert trained.result["metrics"]["validation"]["loss"] == pytest.approx(averaged["together"], rel=1e-4)
    assert trained.manifest["parity"]["max_rel"] <= 1e-5
    assert averaged["microseconds"]["together"] > 0


def test_trials_that_ended_before_a_crash_are_averaged_when_the_time_is_up(tmp_path: Path) -> None:
    table = _table()
    settings = {"sampler": "grid", "ensemble": 2}
    body = _spec([{"Dense": _of([4, 8])}], settings, epochs=1)
    first = RecordingReporter()
    train(request_of(table, body, tmp_path / "first"), first)
    rows = {row["trial"]: {**row, "seconds": 60.0} for row in first.search_trials}
    late = _spec([{"Dense": _of([4, 8])}], {**settings, "seconds": 60}, epochs=1)
    resumed = train(request_of(table, late, tmp_path / "again", trials=list(rows.values())), RecordingReporter())
    assert {one["trial"] for one in resumed.result["averaged"]["trials"]} == {0, 1}


def test_a_trial_that_another_worker_trains_is_what_it_is_here(tmp_path: Path) -> None:
    body = _spec([{"Dense": _of([2, 3, 4])}], {"sampler": "grid"}, epochs=2)
    request = request_of(_table(), body, tmp_path / "whole")
    whole = RecordingReporter()
    undivided = train(request, whole)

    class Divided(RecordingReporter):
        """Another worker trains the second of the trials that remain, the first time."""

        def next_trial(self, remaining: Any) -> TrialAssignment:
            if len(remaining) < 3:
                return super().next_trial(remaining)
            folder = tmp_path / "elsewhere"
            folder.mkdir()
            rows = [row for row in self.search_trials if row["state"] == "running"]
            theirs = RecordingReporter()
            trained = train(replace(request, folder=folder, trials=rows, trial=remaining[1]), theirs)
            self.epochs += theirs.epochs  # as the supervisor copies them
            assert theirs.search_trials == []  # whoever holds the run writes the rows
            return TrialAssignment(remaining[0], finished={remaining[1]: trained.files["trial"]})

    (tmp_path / "divided").mkdir()
    divided = Divided()
    result = train(replace(request, folder=tmp_path / "divided"), divided)

    def ended(reporter: RecordingReporter) -> list[Any]:
        rows = [row for row in reporter.search_trials if row["state"] != "running"]
        return sorted((row["trial"], row["state"], row["value"], row["epochs"]) for row in rows)

    assert ended(divided) == ended(whole)
    assert sorted((row["trial"], row["epoch"]) for row in divided.epochs) == [(n, e) for n in range(3) for e in (1, 2)]
    assert result.manifest["receipt"]["weights"] == undivided.manifest["receipt"]["weights"]
