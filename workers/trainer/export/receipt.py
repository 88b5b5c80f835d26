"""A run's receipt: everything that decides its numbers. Two runs with equal receipts end with equal weights.

On one thread to the bit; on several, sums may be added in another order.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

PACKAGES = ("fitserve", "tensorflow", "tensorflow-cpu", "keras", "numpy", "pyarrow", "onnxruntime")
DECIDING = ("dataset", "split", "spec", "seed", "versions", "device")


def receipt(spec: Mapping[str, Any], dataset: str, split: str, seed: int, threads: int) -> dict[str, Any]:
    """`spec` is resolved; `dataset` and `split` are SHA-256s."""
    return {
        "dataset": dataset,
        "split": split,
        "spec": digest_of(spec),
        "seed": seed,
        "versions": _versions(),
        "device": {**_device(), "threads": threads},
    }


def digest_of(body: Any) -> str:
    """SHA-256 of some JSON in its canonical form: sorted keys, no blanks."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def weights_digest(model: keras.Model) -> str:
    """SHA-256 of a network's weights, in order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.value.numpy()).tobytes())
    return digest.hexdigest()


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    first_epochs: Iterable[Mapping[str, Any]],
    second_epochs: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Whether a run was reproduced: `{"identical", "differences", "first_different_epoch"}`.

    Epochs are rows with `trial` (from 0), `epoch` (from 1) and `logs`. `differences` names what of the
    receipts differs. `first_different_epoch` is None, or that epoch's row: trial, epoch, metric and both values.
    """
    differences = [name for name in (*DECIDING, "weights") if first.get(name) != second.get(name)]
    found = _first_difference(list(first_epochs), list(second_epochs))
    return {"identical": not differences and found is None, "differences": differences, "first_different_epoch": found}


def _first_difference(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    theirs = {(row["trial"], row["epoch"]): row["logs"] for row in second}
    ours = {(row["trial"], row["epoch"]): row["logs"] for row in first}
    for trial, epoch in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get((trial, epoch)), theirs.get((trial, epoch))
        if a == b:
            continue
        names = sorted((a or {}).keys() | (b or {}).keys())
        name = next((n for n in names if (a or {}).get(n) != (b or {}).get(n)), None)
        return {
            "trial": trial,
            "epoch": epoch,
            "metric": name,
            "first": (a or {}).get(name),
            "second": (b or {}).get(name),
        }
    return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _device() -> dict[str, Any]:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return {"type": "gpu", "name": tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")}
    return {"type": "cpu", "name": _processor()}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
