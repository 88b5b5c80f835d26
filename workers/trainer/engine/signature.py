"""A network's inputs and outputs by name, whatever structure the model was made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


def functional_of(model: keras.Model) -> Any:
    """The Functional model inside a Sequential one, or the model itself."""
    return getattr(model, "_functional", None) or model


def inputs_of(model: keras.Model) -> dict[str, Any]:
    """Input tensors by name: a dict's keys where the model takes a dict, else the tensors' names."""
    structure = functional_of(model)._inputs_struct
    if isinstance(structure, Mapping):
        return dict(structure)
    return {tensor.name: tensor for tensor in keras.tree.flatten(structure)}


def outputs_of(model: keras.Model) -> dict[str, Any]:
    """Output tensors by name: a dict's keys where the model answers with a dict, else the layers' names."""
    functional = functional_of(model)
    if isinstance(functional._outputs_struct, Mapping):
        return dict(functional._outputs_struct)
    return dict(zip(functional.output_names, functional.outputs, strict=True))
