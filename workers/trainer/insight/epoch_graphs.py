"""Serving graphs of the network after several epochs, with the outputs of hidden layers, for drawing surfaces."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fitserve.settings import MB
from fitserve.target_encoder import FittedTarget
from workers.trainer.engine.network import functional_of, outputs_of, spec_name
from workers.trainer.export import serving_graph
from workers.trainer.export.onnx_graph import NotWritten, OutputForm
from workers.trainer.insight.recording import Weights

HIDDEN_UNITS = 512
MAX_BYTES = 32 * MB


def write(
    model: keras.Model, targets: Sequence[FittedTarget], snapshots: Mapping[int, Weights], kept_epoch: int, path: Path
) -> dict[str, Any] | None:
    """Write a zip of ONNX graphs: of `model`, which has the kept weights, and of snapshots after other epochs.

    Returns the zip's content, `{"epochs", "kept", "layers": [{"name", "units"}]}`; None if `serving_graph` cannot write
    the network.
    """
    layers = _hidden_layers(model)
    finals = _output_rescaling(model, targets)
    functional = functional_of(model)
    whole = keras.Model(functional.inputs, [*(layer.output for layer in layers), *functional.outputs])
    names = dict(zip(whole.output_names, [*(f"layer:{spec_name(layer)}" for layer in layers), *finals], strict=True))
    outputs = {name: OutputForm(source, *finals.get(name, (1.0, 0.0))) for source, name in names.items()}

    def graph() -> bytes:
        return serving_graph.write(whole, outputs).SerializeToString()

    try:
        serialized = graph()
    except NotWritten:
        return None
    epochs = _within_budget(sorted(snapshots), len(serialized))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("kept.onnx", serialized)
        with _restore_weights(model):
            for epoch in epochs:
                _assign(model, snapshots[epoch])
                archive.writestr(f"epoch-{epoch}.onnx", graph())
    return {
        "epochs": epochs,
        "kept": kept_epoch,
        "layers": [{"name": spec_name(layer), "units": int(layer.output.shape[-1])} for layer in layers],
    }


def _within_budget(epochs: list[int], graph_bytes: int) -> list[int]:
    """Return evenly spread epochs whose graphs fit into MAX_BYTES together."""
    count = max(0, min(len(epochs), MAX_BYTES // max(1, graph_bytes)))
    indices = np.linspace(0, len(epochs) - 1, count).round().astype(int).tolist()
    return [epochs[index] for index in dict.fromkeys(indices)]


@contextmanager
def _restore_weights(model: keras.Model) -> Iterator[None]:
    """Give the model its own weights back at the end."""
    own = [variable.value.numpy() for variable in model.weights]
    try:
        yield
    finally:
        _assign(model, own)


def _assign(model: keras.Model, weights: Weights) -> None:
    for variable, value in zip(model.weights, weights, strict=True):
        variable.assign(value)


def _hidden_layers(model: keras.Model) -> list[Any]:
    """Return layers with units, between inputs and outputs."""
    functional = functional_of(model)
    outputs = {id(tensor) for tensor in functional.outputs}
    kinds = (keras.layers.Dense, keras.layers.RNN, keras.layers.Bidirectional)
    return [
        layer
        for layer in functional.layers
        if isinstance(layer, kinds)
        and len(layer._inbound_nodes) == 1
        and id(layer.output) not in outputs
        and len(layer.output.shape) == 2
        and int(layer.output.shape[-1]) <= HIDDEN_UNITS
    ]


def _output_rescaling(model: keras.Model, targets: Sequence[FittedTarget]) -> dict[str, tuple[float, float, bool]]:
    """Return the rescaling of every output by the target's name, in the order of the model's outputs."""
    by_name = {target.name: target for target in targets}
    names = list(outputs_of(model))
    if set(names) != set(by_name):
        names = [target.name for target in targets]
    return {name: by_name[name].rescaling for name in names}
