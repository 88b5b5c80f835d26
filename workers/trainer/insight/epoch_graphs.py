"""The network along the way: a graph of each copied epoch and of the kept one, hidden layers' outputs among theirs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fitserve.target_encoder import FittedTarget
from workers.trainer.engine.signature import functional_of, outputs_of
from workers.trainer.export import serving_graph
from workers.trainer.insight.trial_recorder import Restored, Weights

HIDDEN_UNITS = 512


def write(
    model: keras.Model, targets: Sequence[FittedTarget], copies: Mapping[int, Weights], kept_epoch: int, path: Path
) -> dict[str, Any] | None:
    """Writes them as a zip of ONNX graphs. `model` has the kept weights, `copies` are those after other epochs.

    Returns what is in it: `{"epochs", "kept", "layers": [{"name", "units"}]}`; None where our writer cannot write the
    network, or there are no copies.
    """
    layers = _hidden(model)
    finals = _final_outputs(model, targets)
    functional = functional_of(model)
    whole = keras.Model(functional.inputs, [*(layer.output for layer in layers), *functional.outputs])
    names = dict(zip(whole.output_names, [*(f"layer:{one.name}" for one in layers), *finals], strict=True))
    wanted = {name: (source, *finals.get(name, (1.0, 0.0))) for source, name in names.items()}

    def graph() -> bytes:
        return serving_graph.write(whole, wanted).SerializeToString()

    try:
        kept = graph()
    except serving_graph.NotWritten:
        return None
    restored, most = Restored(model), _most_copies(copies, len(kept))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("kept.onnx", kept)
        for epoch in most:
            archive.writestr(f"epoch-{epoch}.onnx", restored.at(copies[epoch], graph))
    return {
        "epochs": most,
        "kept": kept_epoch,
        "layers": [{"name": one.name, "units": int(one.output.shape[-1])} for one in layers],
    }


def _most_copies(copies: Mapping[int, Weights], size: int, budget: int = 32 * 1024 * 1024) -> list[int]:
    """The epochs whose graphs fit into the budget together."""
    epochs = sorted(copies)
    fitting = max(0, min(len(epochs), budget // max(1, size)))
    places = np.linspace(0, len(epochs) - 1, fitting).round().astype(int).tolist()
    return [epochs[at] for at in dict.fromkeys(int(place) for place in places)]


def _hidden(model: keras.Model) -> list[Any]:
    """Layers with units of their own between inputs and outputs."""
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


def _final_outputs(model: keras.Model, targets: Sequence[FittedTarget]) -> dict[str, tuple[float, float]]:
    """Scale and offset of every output, by the target's name, in the order of the model's outputs."""
    by_name = {target.name: target for target in targets}
    names = list(outputs_of(model))
    if set(names) != set(by_name):
        names = [target.name for target in targets]
    return {
        name: (by_name[name].scale, by_name[name].center) if by_name[name].task == "regression" else (1.0, 0.0)
        for name in names
    }
