"""The network as a spec writes it: a list of layers, or what Keras's `to_json()` wrote.

An entry is a layer, and may say beside it

    name      what others call it; left out: as Keras numbers them (dense, dense_1)
    inputs    the names of the layers or network inputs that it reads; left out: the entry before it
    output    the target whose output it is; `true` for the only target. A layer named as a target is its output too

Where no layer is a target's output, an output layer is added that fits the target.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, WithJsonSchema, model_serializer

from fitserve.errors import Problem
from fitserve.spec.component import later
from fitserve.spec.keras_json import layers_of
from fitserve.spec.layers import LAYERS, AnyLayer
from fitserve.validation import Refused, shown

ENTRY_KEYS = ("name", "inputs", "output")
MOST_LAYERS = 20_000  # where `parse` is given no limits
# A spec that says no network.
DEFAULT: list[Any] = [{"Dense": {"units": 64, "activation": "relu"}}, {"Dense": {"units": 32, "activation": "relu"}}]


class Node(BaseModel):
    """One layer in its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: AnyLayer
    name: str | None = None
    inputs: tuple[str, ...] | None = None
    output: str | bool | None = None

    @model_serializer(mode="plain")
    def _written(self) -> dict[str, Any]:
        said = {"name": self.name, "inputs": self.inputs and list(self.inputs), "output": self.output}
        return {
            **self.layer.model_dump(mode="json"),
            **{key: value for key, value in said.items() if value is not None},
        }


def read_node(value: Any) -> Node:
    """One entry. Raises Refused."""
    if isinstance(value, Node):
        return value
    if not isinstance(value, dict):
        return Node(layer=LAYERS.read(value))
    said = {key: value[key] for key in ENTRY_KEYS if key in value}
    layer = {key: item for key, item in value.items() if key not in ENTRY_KEYS}
    if len(layer) == 1 and "class_name" not in layer:
        ((cls, arguments),) = layer.items()
        if isinstance(arguments, dict) and "name" in arguments:  # Keras's own argument
            layer = {cls: {key: item for key, item in arguments.items() if key != "name"}}
            said.setdefault("name", arguments["name"])
    elif isinstance(layer.get("config"), dict):
        said.setdefault("name", layer["config"].get("name"))
    return Node(
        layer=LAYERS.read(layer),
        name=_name(said.get("name")),
        inputs=_inputs(said.get("inputs")),
        output=_output(said.get("output")),
    )


def _name(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 255 or "/" in value or not value.isprintable():
        raise Refused(
            problems=[
                Problem(
                    "This cannot be a layer's name.",
                    "/name",
                    received=shown(value),
                    expected="1 to 255 characters without a slash",
                )
            ]
        )
    return value


def _inputs(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) for name in value):
        raise Refused(
            problems=[
                Problem(
                    "inputs is a list of names of layers or network inputs.",
                    "/inputs",
                    received=shown(value),
                    expected="a list of names",
                )
            ]
        )
    return tuple(value)


def _output(value: Any) -> str | bool | None:
    if value is None or value is True or (isinstance(value, str) and value):
        return value
    raise Refused(
        problems=[Problem("output is the name of a target, or true.", "/output", received=shown(value))],
    )


def read_network(value: Any, limit: int = MOST_LAYERS) -> tuple[Node, ...]:
    """A list of entries, `to_json()`'s text, or what it says. Raises Refused."""
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(value, dict):
        value = layers_of(value)
    if not isinstance(value, (list, tuple)):
        raise Refused(
            "A network is a list of layers, or what Keras's to_json() wrote.",
            received=shown(value),
            expected="a list of layers; [] is a network without hidden layers",
        )
    if len(value) > limit:
        raise Refused(
            f"This network has {len(value)} layers: the limit layers is {limit}.",
            received=len(value),
            expected=f"at most {limit}",
            fix="Ask for less, or raise FITSERVE_LIMIT_LAYERS.",
        )
    nodes: list[Node] = []
    problems: list[Problem] = []
    for index, entry in enumerate(value):
        try:
            nodes.append(read_node(entry))
        except Refused as refused:
            problems += refused.under(index).problems
        if len(problems) > 20:
            break
    if problems:
        raise Refused(problems=problems)
    return tuple(nodes)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(
            "This is neither a list of layers nor the text of Keras's to_json().",
            received=shown(text),
            expected="a list of layers",
        ) from None


def _network(value: Any, info: ValidationInfo) -> tuple[Node, ...]:
    return read_network(value, (info.context or {}).get("layers", MOST_LAYERS))


Network = Annotated[
    tuple[Node, ...],
    BeforeValidator(_network),
    WithJsonSchema(later("Network")),
]
