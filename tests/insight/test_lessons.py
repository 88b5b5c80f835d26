"""The course notes' lessons, as this product's users will meet them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.insight.rule_cases import STOP, dense, spec
from tests.insight.trained_runs import blobs, run, table_of, xor

pytestmark = pytest.mark.tensorflow


def test_tanh_and_relu_train_the_deep_network_where_sigmoid_does_not() -> None:
    table = blobs(300, 4, 3.0)
    start = {"kernel_initializer": "GlorotUniform"}

    def reached(activation: str) -> float:
        return run(table, spec([dense(16, activation, **start)] * 8, 20, {"SGD": {"learning_rate": 0.1}})).loss("train")

    assert reached("sigmoid") > 0.65
    assert reached("tanh") < 0.35
    assert reached("relu") < 0.35


def test_l1_gives_sparser_weights_than_l2() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    table = table_of(x, x[:, 0] + x[:, 1] + rng.normal(0, 0.3, 300) > 0)

    def sparsity(regularizer: dict[str, float]) -> float:
        ran = run(table, spec([dense(16, kernel_regularizer=regularizer)], 80, {"SGD": {"learning_rate": 0.05}}))
        return float(ran.record.trial.snapshots[-1].layers[0]["sparsity"])  # type: ignore[union-attr]

    assert sparsity({"L1": 0.01}) > 3 * sparsity({"L2": 0.01})
    assert sparsity({"L1": 0.01}) > 0.3


def test_early_stopping_keeps_the_epoch_of_lowest_validation_error() -> None:
    ran = run(
        blobs(60, 8, 1.0), spec([dense(64)], 100, {"Adam": {"learning_rate": 0.01}}, training={"early_stopping": STOP})
    )
    trial = ran.record.trial
    assert trial is not None
    assert ran.insight is not None
    lowest = min(range(len(trial.epochs)), key=lambda at: trial.validation[at])
    assert ran.insight["kept_epoch"] == trial.epochs[lowest]
    assert len(trial.epochs) == trial.epochs[lowest] + STOP["patience"]
    assert ran.loss() == pytest.approx(trial.validation[lowest], rel=1e-4)


def test_momentum_and_restarts_leave_a_local_minimum_where_plain_descent_stays() -> None:
    table = xor()

    def lowest(momentum: float) -> list[float]:
        """Of each of eight trials, from the same eight initial weights."""
        training: dict[str, Any] = {"batch_size": 16, "restarts": 8}
        optimizer = {"SGD": {"learning_rate": 0.2, "momentum": momentum}}
        ran = run(table, spec([dense(2, "tanh")], 60, optimizer, training=training))
        return [min(trial.train) for trial in ran.record.trials]

    plain, heavy = lowest(0.0), lowest(0.9)
    worst = plain.index(max(plain))
    assert plain[worst] > 0.3
    assert min(plain) < 0.5 * plain[worst]  # another restart does not stay there
    assert heavy[worst] < 0.6 * plain[worst]  # nor does momentum, from the same weights


def test_stochastic_descent_beats_batch_descent_in_time_to_the_same_loss() -> None:
    table = blobs(600, 6, 3.0)

    def seconds_to(batch: int | str, epochs: int) -> float:
        training = {"batch_size": batch}
        ran_epochs = run_epochs(table, spec([dense(16)], epochs, {"SGD": {"learning_rate": 0.05}}, training=training))
        spent = list(itertools.accumulate(seconds for _, seconds in ran_epochs[1:]))  # the first one also traces
        reached = [at for at, (loss, _) in enumerate(ran_epochs[1:]) if loss < 0.3]
        assert reached, ran_epochs[-1]
        return spent[reached[0]]

    assert seconds_to(16, 25) < 0.7 * seconds_to("full", 700)


def run_epochs(table: Any, body: dict[str, Any]) -> list[tuple[float, float]]:
    """Training loss and seconds of every epoch."""
    ran = run(table, body)
    return [(float(row.logs["loss"]), seconds) for row, seconds in zip(ran.record.rows, ran.seconds, strict=True)]
