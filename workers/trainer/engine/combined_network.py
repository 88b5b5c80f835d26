"""An ensemble as one Keras network: its members side by side on the same inputs, plain layers, and their average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from fitserve.spec.ensemble import members_of
from fitserve.spec.graph import free_name
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.shaping import Average
from fitserve.spec.network import LayerEntry
from fitserve.spec.spec import Spec
from workers.trainer.engine.network import build_network, spec_name

Weights = list[np.ndarray]


class CombinedNetwork:
    """The members of a resolved spec's ensemble as one network. `model` gets their weights only by `assign`."""

    def __init__(self, spec: Spec, member: keras.Model) -> None:
        """`member` is any of the members, for the order of its weights."""
        entries, names = _side_by_side(spec)
        precise = spec.training.model_copy(update={"mixed_precision": False})
        self.model = build_network(spec.model_copy(update={"network": tuple(entries), "training": precise}))
        layers = {spec_name(layer): layer for layer in self.model.layers}
        places = {
            id(weight): (spec_name(layer), index)
            for layer in member.layers
            for index, weight in enumerate(layer.weights)
        }
        order = [places[id(weight)] for weight in member.weights]
        self._variables = [[layers[own[name]].weights[index] for name, index in order] for own in names]

    def assign(self, members: Sequence[Weights]) -> None:
        """Give the members their weights, each as from `get_weights`."""
        for variable, value in self._pairs(members):
            variable.assign(value)

    def in_order(self, members: Sequence[Weights]) -> Weights:
        """Return the members' weights as `model.set_weights` takes them."""
        values = {id(variable): value for variable, value in self._pairs(members)}
        return [values[id(variable)] for variable in self.model.weights]

    def _pairs(self, members: Sequence[Weights]) -> Iterator[tuple[Any, np.ndarray]]:
        for variables, weights in zip(self._variables, members, strict=True):
            yield from zip(variables, weights, strict=True)


def _side_by_side(spec: Spec) -> tuple[list[LayerEntry], list[dict[str, str]]]:
    """Return the entries of the combined network, and each member's names of the layers."""
    written = {str(entry.name) for entry in spec.network}
    entries = [entry for entry in spec.network if isinstance(entry.layer, Input)]
    shared = {str(entry.name): str(entry.name) for entry in entries}
    hidden = [entry for entry in spec.network if not isinstance(entry.layer, Input)]
    names: list[dict[str, str]] = []
    taken = set(written)
    for member in range(members_of(spec.ensemble)):
        own = {str(entry.name): free_name(f"{entry.name}_member{member + 1}", taken) for entry in hidden}
        taken |= set(own.values())
        names.append(own)
        for entry in hidden:
            inputs = tuple({**shared, **own}[name] for name in entry.inputs or ())
            entries.append(LayerEntry(layer=entry.layer, name=own[str(entry.name)], inputs=inputs))
    for entry in hidden:
        if entry.output:
            name = str(entry.name)
            ends = tuple(own[name] for own in names)
            entries.append(LayerEntry(layer=Average(), name=name, inputs=ends, output=entry.output))
    return entries, names
