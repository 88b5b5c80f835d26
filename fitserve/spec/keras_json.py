"""`keras.Sequential(...).to_json()` and functional `to_json()` as a list of a spec's entries.

The layers themselves are read through the same allow-list as all others; what is here is how they are connected.
"""

from __future__ import annotations

from typing import Any

from fitserve.errors import Problem
from fitserve.validation import Refused, nearest, shown

MODELS = ("Sequential", "Functional")


def layers_of(model: dict[str, Any]) -> list[Any]:
    """A Keras model's layers as entries with name, inputs and output. Raises Refused."""
    kind = model.get("class_name")
    if kind == "Model":
        kind = "Functional"
    if kind not in MODELS:
        near = nearest(kind, MODELS)
        raise Refused(
            "A network is a list of layers, or what Keras's to_json() wrote of a Sequential or functional model.",
            received=shown(kind if "class_name" in model else list(model)),
            expected="a list, or a mapping with class_name Sequential or Functional",
            fix=f"Did you mean {near[0]}?" if near else None,
        )
    if model.get("registered_name") not in (None, kind) or not str(model.get("module", "keras")).startswith("keras"):
        raise Refused(
            "Only Keras's own models can be a network.",
            received=shown({key: model.get(key) for key in ("module", "registered_name")}),
        )
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise Refused("The model's configuration has no layers.", received=shown(config))
    for index, layer in enumerate(layers):
        if not isinstance(layer, dict) or layer.get("class_name") in (*MODELS, "Model"):
            raise Refused("A model within a model cannot be written in a spec.").under("config", "layers", index)
    return _sequential(layers) if kind == "Sequential" else _functional(config, layers)


def _entry(layer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in layer.items() if key not in ("name", "inbound_nodes")}


def _sequential(layers: list[dict[str, Any]]) -> list[Any]:
    entries = [_entry(layer) for layer in layers]
    if entries and entries[-1].get("class_name") != "InputLayer":
        entries[-1]["output"] = True
    return entries


def _functional(config: dict[str, Any], layers: list[dict[str, Any]]) -> list[Any]:
    outputs = _endpoints(config.get("output_layers"))
    entries = []
    for index, layer in enumerate(layers):
        entry = _entry(layer)
        nodes = layer.get("inbound_nodes") or []
        if len(nodes) > 1:
            raise Refused(
                f"The layer {shown(layer.get('name'))} is used {len(nodes)} times; a spec cannot share a layer."
            ).under("config", "layers", index, "inbound_nodes")
        if nodes:
            entry["inputs"] = _sources(nodes[0], index)
        name = layer.get("name")
        if name in outputs:
            entry["output"] = True if len(outputs) == 1 else name
        entries.append(entry)
    return entries


def _endpoints(value: Any) -> list[Any]:
    """Names in `input_layers` or `output_layers`: [name, 0, 0], a list of those, or a mapping to them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]
    return [endpoint[0] for endpoint in value or [] if isinstance(endpoint, list) and endpoint]


def _sources(node: Any, index: int) -> list[str]:
    """The layers that a call's tensors come from, in order."""
    found: list[str] = []
    arguments = node.get("args") if isinstance(node, dict) else node
    pending = [arguments]
    while pending:
        value = pending.pop(0)
        if isinstance(value, list):
            pending = [*value, *pending]
        elif isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            history = value.get("config", {}).get("keras_history")
            if not isinstance(history, list) or not history or not isinstance(history[0], str):
                raise _strange(index)
            found.append(history[0])
        elif value is not None:
            raise _strange(index)
    if not found:
        raise _strange(index)
    return found


def _strange(index: int) -> Refused:
    return Refused(
        problems=[
            Problem("How this layer is called cannot be written in a spec.", f"/config/layers/{index}/inbound_nodes")
        ]
    )
