"""Initial weights from an artifact: arrays by layer and position, written to a file and loaded into another network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fitserve import weights_file
from fitserve.spec.initial_weights import InitialWeights
from workers.trainer.engine.initial_values import State, state_of
from workers.trainer.engine.network import spec_name

Weights = list[NDArray[Any]]


class GivenWeights:
    """The initial weights of a network, from a file."""

    def __init__(self, path: Path, initial: InitialWeights, members: int) -> None:
        """`members` is how many networks the file holds; of several, each begins one member of the ensemble."""
        self._arrays = weights_file.read(path)
        self._fresh = set(initial.reinitialize)
        self._members = members

    def assign(self, model: keras.Model, member: int = 0) -> None:
        """Set a network's initial weights."""
        for variable, value in self._pairs(model, member):
            variable.assign(value)

    def state(self, model: keras.Model, values: State, member: int) -> State:
        """Return the values of `state_of` the network, with these weights in place of its own."""
        by_variable = {id(variable): value for variable, value in self._pairs(model, member)}
        return [by_variable.get(id(variable), value) for variable, value in zip(state_of(model), values, strict=True)]

    def _pairs(self, model: keras.Model, member: int) -> list[tuple[Any, NDArray[Any]]]:
        pairs = []
        for layer in model.layers:
            name = spec_name(layer)
            if name not in self._fresh:
                for place, variable in enumerate(layer.weights):
                    array = self._arrays[f"{name}/{place}"]
                    pairs.append((variable, array if self._members == 1 else array[member]))
        return pairs


def write_weights(path: Path, model: keras.Model, members: Sequence[Weights]) -> dict[str, Any]:
    """Write the weights of networks like `model`, each as from `get_weights`. Returns the manifest's entry."""
    places = {
        id(weight): f"{spec_name(layer)}/{place}"
        for layer in model.layers
        for place, weight in enumerate(layer.weights)
    }
    names = [places[id(weight)] for weight in model.weights]
    arrays: Mapping[str, NDArray[Any]] = {
        name: own[0] if len(own) == 1 else np.stack(own)
        for name, own in zip(names, zip(*members, strict=True), strict=True)
    }
    weights_file.write(path, arrays)
    shapes = {name: list(weight.shape) for name, weight in zip(names, model.weights, strict=True)}
    return {"members": len(members), "tensors": shapes}
