"""A run's receipt: everything that determines its numbers. Runs with equal receipts end with equal weights.

On one thread they are equal to the bit; on several, sums may be added in another order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workers.installed import versions


def make_receipt(
    spec: Mapping[str, Any], dataset: str, split: str, seed: int, threads: int, gpus: int = 1
) -> dict[str, Any]:
    """Make a receipt. `spec` is resolved; `dataset` and `split` are SHA-256s; `gpus` train together."""
    return {
        "dataset": dataset,
        "split": split,
        "spec": digest_of(spec),
        "seed": seed,
        "versions": versions(),
        "device": {**_device(), "threads": threads, **({"gpus": gpus} if gpus > 1 else {})},
    }


def digest_of(body: Any) -> str:
    """Return SHA-256 of a JSON value in canonical form: sorted keys, no whitespace."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def weights_digest(model: keras.Model) -> str:
    """Return SHA-256 of a network's weights, in order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.value.numpy()).tobytes())
    return digest.hexdigest()


def _device() -> dict[str, Any]:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return {"type": "gpu", "name": tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")}
    return {"type": "cpu", "name": _processor()}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
