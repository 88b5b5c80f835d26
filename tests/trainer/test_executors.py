"""One operation at a time, or several: measured, and without influence on the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest

from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.engine import executors
from workers.trainer.engine.executors import Executor
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
TABLE = pa.table({name: RNG.normal(size=200) for name in ("a", "b", "c", "y")})
LAYERS = [{"Dense": {"units": 32, "activation": "relu"}}, "BatchNormalization", {"Dropout": 0.2}, {"Dense": 16}]
NETWORK = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


class Clock:
    """A clock of calls that take a given time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(executors.time, "perf_counter", lambda: self.now)

    def run(self, executor: Executor, calls: int, one: float, several: float) -> list[bool]:
        """Make calls that take so many seconds by their way. Return each call's way."""
        ways = []
        for _ in range(calls):
            ways.append(executor.several)
            with executor(10):
                self.now += several if executor.several else one
        return ways


@pytest.mark.parametrize(("one", "several"), [(0.2, 0.15), (0.15, 0.2)])
def test_the_faster_way_is_chosen(one: float, several: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Clock(monkeypatch).run(Executor(NETWORK, 32), 20, one, several)
    assert ways[:4] == [False] * 4  # the first call compiles, the next ones are measured
    assert ways[4:8] == [True] * 4
    assert ways[8:] == [several < one] * 12


def test_a_much_slower_way_is_given_up_after_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Clock(monkeypatch).run(Executor(NETWORK, 32), 20, 0.1, 0.3)
    assert ways.count(True) == 2


def test_short_runs_measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, executor = Clock(monkeypatch), Executor(NETWORK, 32)
    assert not any(clock.run(executor, 100, 0.002, 0.001))


@pytest.mark.parametrize("ensemble", [False, {"members": 4}])
def test_the_results_do_not_depend_on_the_way(ensemble: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"epochs": 8, "batch_size": 32, "seed": 1, "early_stopping": False}
    body = {"target": "y", "network": LAYERS, "training": training, "ensemble": ensemble}
    ways: set[bool] = set()
    record = Executor._record

    def recorded(executor: Executor, seconds: float, steps: float) -> None:
        ways.add(executor.several)
        record(executor, seconds, steps)

    monkeypatch.setattr(Executor, "_record", recorded)
    epochs = []
    for seconds in (1e9, 0.0):  # never; after a call of each way
        monkeypatch.setattr(executors, "MEASURED_SECONDS", seconds)
        monkeypatch.setattr(executors, "MEASURED_CALLS", 1)
        folder = tmp_path / str(seconds)
        folder.mkdir()
        reporter = RecordingReporter()
        train(request_of(TABLE, body, folder), reporter)
        epochs.append(reporter.epochs)
    assert epochs[0] == epochs[1]
    assert ways == {False, True}
