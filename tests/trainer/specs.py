"""Random arrays like encoded rows, and networks trained on them for an epoch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from fitserve.spec.layers.core import Input
from fitserve.spec.spec import Spec
from workers.trainer.engine.network import build_losses, build_metrics, build_network, build_optimizer

ROWS = 24


def arrays(spec: Spec, rows: int = ROWS, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random inputs and targets of the shapes and dtypes that a resolved spec has."""
    random = np.random.default_rng(seed)
    inputs: dict[str, Any] = {}
    for node in spec.network:
        if isinstance(node.layer, Input):
            shape = (rows, *node.layer.shape)
            whole = node.layer.dtype == "int32"
            inputs[str(node.name)] = (
                random.integers(0, 4, shape).astype("int32") if whole else random.normal(size=shape).astype("float32")
            )
    targets: dict[str, Any] = {}
    for target in spec.target:
        labels = random.integers(0, target.units, rows)
        if target.encoding == "index":
            targets[target.name] = labels.astype("int32")
        elif target.encoding == "one_hot":
            targets[target.name] = np.eye(target.units, dtype="float32")[labels]
        elif target.encoding == "binary":
            targets[target.name] = random.integers(0, 2, (rows, len(target.columns))).astype("float32")
        else:
            targets[target.name] = random.uniform(0.1, 1.0, (rows, 1)).astype("float32")
    return inputs, targets


def compiled(spec: Spec, steps: int = 2) -> keras.Model:
    """The compiled network, run without tracing, which is faster for a few steps."""
    network = build_network(spec)
    network.compile(
        optimizer=build_optimizer(spec, steps),
        loss=build_losses(spec),
        loss_weights=spec.training.loss_weights,
        metrics=build_metrics(spec),
        run_eagerly=True,
    )
    return network


def train_one_epoch(spec: Spec) -> dict[str, float]:
    """Train one epoch of two batches, without the input pipeline of `fit`. Returns its logs."""
    keras.utils.set_random_seed(spec.training.seed)
    network = compiled(spec)
    inputs, targets = arrays(spec)
    logs: dict[str, Any] = {}
    for at in range(0, ROWS, ROWS // 2):
        batch = ({name: rows[at : at + ROWS // 2] for name, rows in part.items()} for part in (inputs, targets))
        logs = network.train_on_batch(*batch, return_dict=True)
    return {name: float(value) for name, value in logs.items()}
