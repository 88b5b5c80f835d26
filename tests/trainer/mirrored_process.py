"""`python -m tests.trainer.mirrored_process FOLDER COUNT NAME...`: train on several devices of one process.

TensorFlow divides this machine's processor into COUNT logical devices, which stand for as many GPUs: MirroredStrategy
treats them alike. Writes each spec's figures, alone and together, to `FOLDER/found.json`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.trainer.gang_process import SPECS, memory_for, table
from tests.trainer.requests import RecordingReporter, request_of, train_only

RESUMED = "everything"  # goes on from a checkpoint in the middle of an epoch
WITH_FILES = "dense"  # is exported and evaluated too, which takes as long as to train
ALONE = ("restarts", "switches", "xla_normalised")  # specs that one device trains, and says why
_DENSE = {"Dense": {"units": 16, "activation": "relu", "kernel_regularizer": {"L2": 0.01}}}
MORE: dict[str, Any] = {
    "mixed": {"mixed_precision": True},
    "xla": {"jit_compile": True},
    "restarts": {"restarts": 2},
    "switches": {"switches": [{"after": 1, "optimizer": "SGD"}]},
    "xla_normalised": {"jit_compile": True},
}


def spec_of(name: str) -> dict[str, Any]:
    if name in SPECS:
        return SPECS[name]
    normalised: list[Any] = [{"BatchNormalization": {}}] if name == "xla_normalised" else []
    training = {"epochs": 2, "batch_size": 33, "early_stopping": None, **MORE[name]}
    return {"target": "y", "features": ["a", "b", "c"], "network": [_DENSE, *normalised], "training": training}


def trained(name: str, folder: Path, device: str, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train a spec on `device`, and save its third checkpoint in the folder."""
    spec = spec_of(name)
    spec = {**spec, "training": {**spec["training"], "device": device}}
    from workers.trainer.train import train

    request = request_of(table(), spec, folder, checkpoint=checkpoint)
    reporter = RecordingReporter()
    run = train if name == WITH_FILES and device == "gpu" else train_only
    with memory_for(name):
        result = run(replace(request, checkpoint_seconds=-1.0 if name == RESUMED else 30.0), reporter)
    if len(reporter.checkpoints) > 2:
        (folder / "third.npz").write_bytes(reporter.checkpoints[2][0])
    return {
        "epochs": [row["logs"] for row in reporter.epochs],
        "first": reporter.epochs[0]["epoch"],
        "says": [message for _, message, _ in reporter.events if "GPU" in message],
        "gpus": result.result.get("gpus"),
        "files": sorted(result.files),
        "weights": result.manifest["receipt"]["weights"],
        "best_epoch": result.result["best_epoch"],
    }


@contextlib.contextmanager
def devices(count: int) -> Iterator[None]:
    """Have logical devices of the processor stand for GPUs."""
    from workers.trainer.engine import device, loop

    loop.Pace.__init__.__defaults__ = (0.5, 3)  # batches a call: an epoch has checkpoints in it
    loop.Pace.record_call = lambda *_: None  # type: ignore[method-assign]
    usual = device.gpus
    device.gpus = lambda: [one.name for one in tf.config.list_logical_devices("CPU")][:count]
    try:
        yield
    finally:
        device.gpus = usual


def main() -> None:
    folder, count, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
    found: dict[str, Any] = {}
    with devices(count):
        for name in names:
            found[name] = {
                "alone": trained(name, folder / f"{name}-alone", "cpu"),
                "together": trained(name, folder / name, "gpu"),
            }
        if RESUMED in names:
            found["resumed"] = trained(RESUMED, folder / "resumed", "gpu", folder / RESUMED / "third.npz")
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    main()
