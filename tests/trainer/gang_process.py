"""`python -m tests.trainer.gang_process FOLDER RANK ADDRESSES NAME...`: one of the processes that train together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.trainer.requests import RecordingReporter, request_of, train_only

ROWS = 331
_NUMBERS = ["a", "b", "c", "d"]


def table() -> pa.Table:
    """Numbers, a label of many kinds, a weight and a target."""
    rng = np.random.default_rng(0)
    x, kinds = rng.normal(size=(ROWS, 4)), rng.integers(0, 30, ROWS)
    label = np.where(x[:, 0] + 0.5 * x[:, 1] + (kinds % 3) > 1, "yes", "no")
    numbers = {name: x[:, at] for at, name in enumerate(_NUMBERS)}
    return pa.table(
        {**numbers, "kind": [f"k{kind}" for kind in kinds], "weight": rng.uniform(0.5, 2, ROWS), "y": label}
    )


def _spec(network: list[Any], features: list[Any] | None = None, **training: Any) -> dict[str, Any]:
    training = {"epochs": 3, "batch_size": 33, **training}  # 232 rows train: seven batches, and one of a single row
    return {"target": "y", "features": features or _NUMBERS, "network": network, "training": training}


_DENSE = {"Dense": {"units": 16, "activation": "relu", "kernel_regularizer": {"L2": 0.01}}}
_VECTORS = [
    {"Embedding": {"input_dim": 40, "output_dim": 4}, "inputs": "kind", "name": "vectors"},
    {"Flatten": {}, "name": "flat"},
    {"Concatenate": {}, "inputs": ["flat", "features"]},
]
_INDEXED = [{"column": "kind", "encoding": "index"}, "a", "b"]
_STOPPING = {"early_stopping": {"patience": 1, "restore_best_weights": True}, "reduce_lr_on_plateau": {"patience": 1}}
SPECS: dict[str, dict[str, Any]] = {
    "everything": _spec(
        [*_VECTORS, _DENSE, {"BatchNormalization": {}}, {"Dropout": 0.3}, {"Dense": 9}],
        _INDEXED,
        class_weight="balanced",
        sample_weight="weight",
        metrics=["accuracy", "AUC", "F1Score"],
        **_STOPPING,
    ),
    "clipped": _spec([*_VECTORS, {"Dense": 8}], _INDEXED, optimizer={"Adam": {"learning_rate": 0.01, "clipnorm": 1.0}}),
    "dense": _spec([_DENSE, {"Dense": 8}], optimizer={"SGD": {"learning_rate": 0.1, "momentum": 0.9}}),
    "convolution": _spec([{"Reshape": [4, 1]}, {"Conv1D": {"filters": 4, "kernel_size": 2}}, {"Flatten": {}}]),
    "recurrent": _spec([{"Reshape": [4, 1]}, {"LSTM": 5}]),
    "one_hot": _spec([_DENSE], ["a", "kind"], metrics=["accuracy"]),
    "full_batch": _spec([_DENSE], batch_size="full", epochs=5),
    "streamed": _spec([_DENSE, {"Dense": 8}], _NUMBERS),
    "adam": _spec([_DENSE, {"Dense": 16}], epochs=200, optimizer="Adam", early_stopping=None),
    "lost": _spec([_DENSE], epochs=100_000),
}


def logs_alone(name: str, folder: Path, checkpoint: Path | None = None) -> list[dict[str, float]]:
    """The logs of a spec that one process trains, or trains on."""
    reporter = RecordingReporter()
    with memory_for(name):
        train_only(request_of(table(), SPECS[name], folder, checkpoint=checkpoint), reporter)
    return [row["logs"] for row in reporter.epochs]


@contextlib.contextmanager
def memory_for(name: str, fits: bool = False) -> Iterator[None]:
    """So little memory that the rows are streamed; `fits`: those who have less decide."""
    from workers.trainer.data import preparation

    usual = preparation.memory_budget, preparation.SAMPLE_ROWS
    if name == "streamed":
        preparation.memory_budget = lambda: 10**9 if fits else 100
        preparation.SAMPLE_ROWS = {"train": 200, "validation": 50, "test": 50}
    try:
        yield
    finally:
        preparation.memory_budget, preparation.SAMPLE_ROWS = usual


@dataclass
class LostAfterSteps(RecordingReporter):
    """Ends this process, as a lost machine does, once some steps were made."""

    calls: int = 0

    def progress(self) -> None:
        self.calls += 1
        if self.calls > 3:
            os._exit(0)


def slow_down() -> None:
    """Make every training step of this process slow."""
    import tensorflow as tf

    from workers.trainer.engine import shared_steps

    weighted = shared_steps.weighted

    def late(loss: Any) -> Any:
        pause = tf.numpy_function(lambda: np.float32(time.sleep(0.05) or 0.0), [], tf.float32)
        with tf.control_dependencies([pause]):
            return tf.identity(weighted(loss))

    shared_steps.weighted = late


def main() -> None:
    folder, rank, addresses = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    from workers.trainer import train as training
    from workers.trainer.engine import collectives, gang, loop
    from workers.trainer.engine.collectives import Collectives
    from workers.trainer.interface import GangBroken, TrainingResult
    from workers.trainer.ready_run import ReadyRun

    gang.SLOW_SECONDS = 0.0
    collectives.FUSED_BYTES = 256  # some of these small networks' gradients are exchanged one by one
    group = Collectives(addresses, rank)
    group.connect()
    group.connect = group.close = lambda: None  # type: ignore[method-assign]
    vars(training)["Collectives"] = lambda *_: group
    written: dict[str, Any] = {}
    names = sys.argv[4:]
    if names[0] == "--no-files":
        names = names[1:]
        loop.Pace.__init__.__defaults__ = (0.5, 3)  # batches a call: an epoch has checkpoints in it
        loop.Pace.record_call = lambda *_: None  # type: ignore[method-assign]
        ReadyRun.finish = lambda ready, *_: TrainingResult({}, {}, {"weights": _digest(ready)})  # type: ignore
    for name in names:
        written[name] = _trained(name, folder / f"{rank}-{name}", addresses, rank, GangBroken)
    if rank == 0:
        (folder / "leader.json").write_text(json.dumps(written))


def _digest(ready: Any) -> str:
    weights = b"".join(weight.tobytes() for weight in ready.setup.compiled.model.get_weights())
    return hashlib.sha256(weights).hexdigest()


SLOW = "everything"  # the last process is slow
_CHECKPOINTS: dict[str, list[bytes]] = {}  # of the leader's trainings, by spec


def _trained(name: str, folder: Path, addresses: list[str], rank: int, broken: type[Exception]) -> Any:
    """Train a spec; `NAME@3` goes on from the fourth checkpoint of the training before, which the leader alone has."""
    from workers.trainer.engine.kept_networks import KEPT
    from workers.trainer.interface import GangPlace
    from workers.trainer.train import train

    KEPT.clear()
    name, _, number = name.partition("@")
    last = rank == len(addresses) - 1
    reporter = LostAfterSteps() if name == "lost" and last else RecordingReporter()
    if name == SLOW and last:
        slow_down()
    request = request_of(table(), SPECS[name], folder, gang=GangPlace(addresses, rank))
    request = replace(request, checkpoint_seconds=-1.0 if name in ("everything", "adam") else 30.0)
    if number and rank == 0:
        request = replace(request, checkpoint=folder / "checkpoint.npz")
        (folder / "checkpoint.npz").write_bytes(_CHECKPOINTS[name][int(number)])
    try:
        with memory_for(name, fits=rank == 0):
            result = train(request, reporter)
    except broken as error:
        return type(error).__name__
    _CHECKPOINTS[name] = [data for data, _ in reporter.checkpoints]
    for data, epoch in reporter.checkpoints:
        (folder / f"epoch{epoch}.npz").write_bytes(data)
    epochs = {row["epoch"]: row["logs"] for row in reporter.epochs}
    return {
        "epochs": list(epochs.values()),
        "first": min(epochs, default=1),
        "files": sorted(result.files),
        "warnings": [message for level, message, _ in reporter.events if level == "warn"],
        "weights": result.result.get("weights"),
    }


if __name__ == "__main__":
    main()
