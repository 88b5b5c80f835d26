"""ONNX graph of a row's distance from the training rows, in the last hidden layer.

It is stored beside the serving graph. Its output is the activations before the output layers, centred and divided by
their spread along the principal directions of the training rows. The distance is the root of their mean square:
Mahalanobis's, with a ridge, by which Lee et al. (2018) recognise rows unlike the training rows. An ensemble's distance
is that of its first member.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from workers.trainer.engine.network import inputs_of, outputs_of
from workers.trainer.export import serving_graph
from workers.trainer.export.onnx_graph import NotWritten, OutputForm

OUTPUT = "distance"
MAX_WEIGHTS = 2_000_000  # weights of a network; above, the graph would be a second large file
MAX_UNITS = 2_048
MAX_DIRECTIONS = 256
RIDGE = 1e-3  # ridge: share of the mean variance that is added to each variance
CHUNK = 8_192

Array = np.ndarray[Any, Any]


def write(network: keras.Model, train: Mapping[str, Array], path: Path) -> bool:
    """Write the graph of a network whose encoded training rows are `train`. Returns False if it cannot have one."""
    hidden = _last_hidden(network)
    if hidden is None or network.count_params() > MAX_WEIGHTS:
        return False
    activations = _activations(keras.Model(inputs_of(network), hidden), train)
    if len(activations) < 2:
        return False
    center, kernel = _whitening(activations)
    dense = keras.layers.Dense(kernel.shape[1], name=OUTPUT, dtype="float32")
    whole = keras.Model(inputs_of(network), {OUTPUT: dense(hidden)})
    dense.set_weights([kernel.astype(np.float32), (-center @ kernel).astype(np.float32)])
    try:
        path.write_bytes(serving_graph.write(whole, {OUTPUT: OutputForm(OUTPUT)}).SerializeToString())
    except NotWritten:
        return False
    return True


def _last_hidden(network: keras.Model) -> Any:
    """Return the input of the output layers, (batch, units); None if that is not one vector per row."""
    sources: dict[int, Any] = {}
    for output in outputs_of(network).values():
        for tensor in output._keras_history.operation._inbound_nodes[0].input_tensors:
            sources[id(tensor)] = tensor
    tensors = list(sources.values())
    if not tensors or any(len(one.shape) != 2 or "float" not in one.dtype for one in tensors):
        return None
    if sum(int(one.shape[-1]) for one in tensors) > MAX_UNITS:
        return None
    return tensors[0] if len(tensors) == 1 else keras.layers.Concatenate()(tensors)


def _activations(model: keras.Model, rows: Mapping[str, Array]) -> Array:
    count = len(next(iter(rows.values())))
    pieces = [
        np.asarray(
            model({name: values[start : start + CHUNK] for name, values in rows.items()}, training=False), np.float64
        )
        for start in range(0, count, CHUNK)
    ]
    return np.concatenate(pieces) if pieces else np.zeros((0, 1))


def _whitening(activations: Array) -> tuple[Array, Array]:
    """Return the centre, (units,), and the map of centred activations to unit spread, (units, directions)."""
    center = activations.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(activations - center, rowvar=False).reshape(len(center), -1))
    variances, directions = variances[::-1][:MAX_DIRECTIONS], directions[:, ::-1][:, :MAX_DIRECTIONS]
    ridge = RIDGE * max(float(np.mean(np.clip(variances, 0, None))), 1e-12)
    return center, directions / np.sqrt(np.clip(variances, 0.0, None) + ridge)
