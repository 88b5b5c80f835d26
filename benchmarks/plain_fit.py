"""The networks and tables of `benchmarks.training`, and Keras's plain `Model.fit` of them in a process of its own.

The process has TensorFlow's default threads, as a user's script has: a trainer sets others when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

L = keras.layers
OF_A_TRAINER = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")  # variables that a trainer sets for itself


@dataclass(frozen=True)
class Case:
    """A network and a generated table of `rows` by `columns`, with `validation` additional rows."""

    rows: int
    columns: int
    labels: int
    layers: Callable[[], list[Any]]
    batch: int
    epochs: int
    validation: int = 0
    multi_hot: bool = False

    def data(self) -> tuple[Any, Any, Any, Any]:
        rng = np.random.default_rng(0)
        rows = self.rows + self.validation
        if self.multi_hot:
            x = (rng.random((rows, self.columns), np.float32) < 0.1).astype(np.float32)
        else:
            x = rng.normal(size=(rows, self.columns)).astype(np.float32)
        score = x @ rng.normal(size=(self.columns, max(2, self.labels))).astype(np.float32)
        y = score.argmax(axis=1).astype(np.int32)
        if self.labels == 1:
            y = y.astype(np.float32)[:, None]
        return x[: self.rows], y[: self.rows], x[self.rows :], y[self.rows :]

    def model(self) -> keras.Model:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((self.columns,)), *self.layers()])
        binary = self.labels == 1
        loss = keras.losses.BinaryCrossentropy() if binary else keras.losses.SparseCategoricalCrossentropy()
        model.compile("adam", loss, metrics=["accuracy"])
        return model


CASES = {
    "T1": Case(
        400,
        6,
        2,
        lambda: [L.Dense(128, "relu"), L.Dropout(0.2), L.Dense(64, "relu"), L.Dropout(0.2), L.Dense(2, "softmax")],
        batch=100,
        epochs=200,
        validation=100,
    ),
    "T2": Case(50_000, 32, 10, lambda: [L.Dense(256, "relu"), L.Dense(256, "relu"), L.Dense(10, "softmax")], 256, 10),
    "T3": Case(
        25_000,
        1_000,
        1,
        lambda: [L.Dense(512, "relu"), L.Dropout(0.5), L.Dense(1, "sigmoid")],
        batch=32,
        epochs=10,
        multi_hot=True,
    ),
    "T4": Case(500_000, 54, 7, lambda: [L.Dense(128, "relu"), L.Dense(64, "relu"), L.Dense(7, "softmax")], 1_024, 5),
}
# About a minute of `fit` each, in which tracing does not count.
LONG = {"T2_long": replace(CASES["T2"], epochs=170), "T4_long": replace(CASES["T4"], epochs=75)}


def fit(case: Case) -> float:
    """Return the seconds of Keras's `fit`."""
    x, y, vx, vy = case.data()
    model = case.model()
    begun = time.perf_counter()
    validation = (vx, vy) if len(vx) else None
    model.fit(x, y, batch_size=case.batch, epochs=case.epochs, validation_data=validation, verbose=0)
    return time.perf_counter() - begun


class PlainFit:
    """A process that trains with `fit` when asked, and waits otherwise."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in OF_A_TRAINER}
        project, pipe = Path(__file__).parents[1], subprocess.PIPE
        command = [sys.executable, "-m", "benchmarks.plain_fit"]
        self._process = subprocess.Popen(command, cwd=project, env=environment, stdin=pipe, stdout=pipe, text=True)

    def seconds(self, name: str) -> float:
        """Return the seconds that `fit` takes for a case."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def __enter__(self) -> PlainFit:
        self.seconds("T1")  # TensorFlow's own warm-up
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    for line in sys.stdin:
        print(fit((CASES | LONG)[line.strip()]), flush=True)
