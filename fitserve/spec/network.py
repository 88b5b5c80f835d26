"""The network in a spec: a list of layers, or the output of Keras's `to_json()`.

An entry is a layer and, beside it, optionally

    name      what others call it; left out: as Keras numbers them (dense, dense_1)
    inputs    the names of the layers or network inputs that it reads; left out: the entry before it
    output    the target whose output it is; `true` for the only target. A layer named as a target is its output too

If no layer is marked as an output, the last layer becomes it, provided that its units and activation fit the only
target. Otherwise a fitting output layer is added, with a notice if the last layer looks like an output.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ConfigDict,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
)

from fitserve.data_model import DataModel
from fitserve.errors import Problem
from fitserve.excerpts import excerpt
from fitserve.spec.component import deferred_ref, dump_components
from fitserve.spec.layers import LAYERS, AnyLayer
from fitserve.spec.layers.core import Input
from fitserve.validation import InvalidValue, did_you_mean

ENTRY_KEYS = ("name", "inputs", "output")  # keys of an entry besides its layer
MAX_LAYERS = 20_000  # used if `parse` is given no limits
MAX_PROBLEMS = 20  # after this many, the rest of the network is not read
_HIDDEN = {"Dense": {"units": 64, "activation": "relu", "kernel_initializer": "HeNormal"}}
DEFAULT: list[Any] = [_HIDDEN, {"Dropout": 0.1}, _HIDDEN, {"Dropout": 0.1}]
# A minimal network for teaching: `preset: plain`.
PLAIN: list[Any] = [{"Dense": {"units": 64, "activation": "relu"}}, {"Dense": {"units": 32, "activation": "relu"}}]
KERAS_MODELS = ("Sequential", "Functional")


class LayerEntry(DataModel):
    """One layer of a network, with its name, inputs and target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: AnyLayer
    name: str | None = None
    inputs: tuple[str, ...] | None = None
    output: str | bool | None = None

    @model_serializer(mode="plain")
    def _serialize(self, info: SerializationInfo) -> dict[str, Any]:
        beside = {"name": self.name, "inputs": self.inputs and list(self.inputs), "output": self.output}
        return {
            **dump_components(self.layer, info),
            **{key: value for key, value in beside.items() if value is not None},
        }


def read_entry(value: Any) -> LayerEntry:
    """Read one entry. Raises InvalidValue."""
    if isinstance(value, LayerEntry):
        return value
    if not isinstance(value, dict):
        return LayerEntry(layer=LAYERS.read(value))
    beside = {key: value[key] for key in ENTRY_KEYS if key in value}
    layer = {key: item for key, item in value.items() if key not in ENTRY_KEYS}
    if len(layer) == 1 and "class_name" not in layer:
        ((cls, arguments),) = layer.items()
        if isinstance(arguments, dict) and "name" in arguments:  # Keras's own argument
            layer = {cls: {key: item for key, item in arguments.items() if key != "name"}}
            beside.setdefault("name", arguments["name"])
    elif isinstance(layer.get("config"), dict):
        beside.setdefault("name", layer["config"].get("name"))
    read = LAYERS.read(layer)
    return LayerEntry(
        layer=read,
        name=_name(beside.get("name"), of_input=isinstance(read, Input)),
        inputs=_inputs(beside.get("inputs")),
        output=_output(beside.get("output")),
    )


def _name(value: Any, of_input: bool) -> str | None:
    if value is None or (of_input and isinstance(value, str) and value):  # an input may have any column's name
        return value
    if not isinstance(value, str) or not 0 < len(value) <= 255 or "/" in value or not value.isprintable():
        raise InvalidValue(
            "This cannot be a layer's name.",
            pointer="/name",
            received=excerpt(value),
            expected="1 to 255 characters without a slash",
        )
    return value


def _inputs(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) for name in value):
        raise InvalidValue(
            "inputs is a list of names of layers or network inputs.",
            pointer="/inputs",
            received=excerpt(value),
            expected="a list of names",
        )
    return tuple(value)


def _output(value: Any) -> str | bool | None:
    if value is None or value is True or (isinstance(value, str) and value):
        return value
    raise InvalidValue("output is the name of a target, or true.", pointer="/output", received=excerpt(value))


def read_network(value: Any, max_layers: int = MAX_LAYERS) -> tuple[LayerEntry, ...]:
    """Read a list of entries, or the output of Keras's `to_json()` as text or decoded. Raises InvalidValue."""
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(value, dict):
        value = _entries_of_keras_model(value)
    if not isinstance(value, (list, tuple)):
        raise InvalidValue(
            "A network is a list of layers, or what Keras's to_json() wrote.",
            received=excerpt(value),
            expected="a list of layers; [] is a network without hidden layers",
        )
    if len(value) > max_layers:
        raise InvalidValue(
            f"This network has {len(value)} layers: the limit layers is {max_layers}.",
            received=len(value),
            expected=f"at most {max_layers}",
            fix="Use fewer, or raise FITSERVE_LIMIT_LAYERS.",
        )
    entries: list[LayerEntry] = []
    problems: list[Problem] = []
    for index, entry in enumerate(value):
        try:
            entries.append(read_entry(entry))
        except InvalidValue as invalid:
            problems += invalid.under(index).problems
        if len(problems) > MAX_PROBLEMS:
            break
    if problems:
        raise InvalidValue(problems=problems)
    return tuple(entries)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValue(
            "This is neither a list of layers nor the text of Keras's to_json().",
            received=excerpt(text),
            expected="a list of layers",
        ) from None


def _validate(value: Any, info: ValidationInfo) -> tuple[LayerEntry, ...]:
    return read_network(value, (info.context or {}).get("layers", MAX_LAYERS))


Network = Annotated[tuple[LayerEntry, ...], BeforeValidator(_validate), WithJsonSchema(deferred_ref("Network"))]


# --- Keras's `to_json()`: layers pass the same allow-list as all others; these functions read their connections


def _entries_of_keras_model(model: dict[str, Any]) -> list[Any]:
    """Return the layers of a Sequential or functional model as entries."""
    kind = "Functional" if model.get("class_name") == "Model" else model.get("class_name")
    if kind not in KERAS_MODELS:
        raise InvalidValue(
            "A network is a list of layers, or what Keras's to_json() wrote of a Sequential or functional model.",
            received=excerpt(kind if "class_name" in model else list(model)),
            expected="a list, or a mapping with class_name Sequential or Functional",
            fix=did_you_mean(kind, KERAS_MODELS),
        )
    if model.get("registered_name") not in (None, kind) or not str(model.get("module", "keras")).startswith("keras"):
        raise InvalidValue(
            "Only Keras's own models can be a network.",
            received=excerpt({key: model.get(key) for key in ("module", "registered_name")}),
        )
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise InvalidValue("The model's configuration has no layers.", received=excerpt(config))
    for index, layer in enumerate(layers):
        if not isinstance(layer, dict) or layer.get("class_name") in (*KERAS_MODELS, "Model"):
            detail = "A spec cannot contain a model within a model."
            raise InvalidValue(detail).under("config", "layers", index)
    entries = [{key: item for key, item in one.items() if key not in ("name", "inbound_nodes")} for one in layers]
    if kind == "Functional":
        _connect(entries, layers, _endpoints(config.get("output_layers")))
    elif entries and entries[-1].get("class_name") != "InputLayer":
        entries[-1]["output"] = True
    return entries


def _connect(entries: list[dict[str, Any]], layers: list[dict[str, Any]], outputs: list[Any]) -> None:
    """Add a functional model's inputs and outputs to its layers' entries."""
    for index, (entry, layer) in enumerate(zip(entries, layers, strict=True)):
        name, nodes = layer.get("name"), layer.get("inbound_nodes") or []
        if len(nodes) > 1:
            detail = f"The layer {excerpt(name)} is used {len(nodes)} times; a spec cannot share a layer."
            raise InvalidValue(detail, pointer=_inbound(index))
        if nodes:
            entry["inputs"] = _sources(nodes[0], index)
        if name in outputs:
            entry["output"] = True if len(outputs) == 1 else name


def _endpoints(value: Any) -> list[Any]:
    """Return the names in `output_layers`: [name, 0, 0], a list of those, or a mapping to them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]
    return [endpoint[0] for endpoint in value or [] if isinstance(endpoint, list) and endpoint]


def _sources(node: Any, index: int) -> list[str]:
    """Return the layers that a call's tensors come from, in order."""
    unsupported = InvalidValue("A spec cannot express how this layer is called.", pointer=_inbound(index))
    sources: list[str] = []
    pending = [node.get("args") if isinstance(node, dict) else node]
    while pending:
        value = pending.pop(0)
        if isinstance(value, list):
            pending = [*value, *pending]
        elif isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            history = value.get("config", {}).get("keras_history")
            if not isinstance(history, list) or not history or not isinstance(history[0], str):
                raise unsupported
            sources.append(history[0])
        elif value is not None:
            raise unsupported
    if not sources:
        raise unsupported
    return sources


def _inbound(index: int) -> str:
    return f"/config/layers/{index}/inbound_nodes"
