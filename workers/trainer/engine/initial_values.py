"""The initial values of a network's variables for a seed, without building the network again.

Keras draws a seed for each random initializer and each random layer, in the order in which they are made, from Python's
generator. `InitialValues` learns from one built network which draw belongs to which variable. It builds a second
network once to verify itself bit for bit; if it cannot reproduce a network, it builds one for every seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

State = list[NDArray[Any]]
"""The values of `state_of` a network."""

_HIGHEST = 1_000_000_000  # Keras draws seeds from 1 to this number
_MORE_DRAWS = 64  # more draws than variables: layers also draw for initializers that they do not use


def set_seeds(seed: int) -> None:
    """Set the seeds that Keras draws from: `keras.utils.set_random_seed` without TensorFlow's.

    Keras never draws from TensorFlow's, and setting it makes every traced function be optimised again.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that are given no generator draw from it)


def state_of(model: keras.Model) -> list[Any]:
    """Weights, batch statistics and the states of random generators, without the optimizer's and metrics'."""
    return [*model.trainable_variables, *model.non_trainable_variables]


def values_of(model: keras.Model) -> State:
    """Return copies of the values of `state_of`."""
    return [variable.value.numpy() for variable in state_of(model)]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A variable that an initializer fills from the draw number `draw`; without one, a random layer's state."""

    draw: int
    initializer: Any
    shape: tuple[int, ...]
    dtype: str

    def value(self, seed: int) -> NDArray[Any]:
        if self.initializer is None:
            return np.array([seed, 0]).astype(self.dtype)
        own = type(self.initializer).from_config({**self.initializer.get_config(), "seed": seed})
        return np.asarray(keras.ops.convert_to_numpy(own(self.shape, dtype=self.dtype)))


class InitialValues:
    """Initial values of networks like one, by seed."""

    def __init__(self, model: keras.Model, seed: int, build: Callable[[], keras.Model]) -> None:
        """`model` was just built from `seed`, as `build` builds one after `set_seeds`."""
        self._build, self._seed = build, seed
        self._sources = _sources(model, seed)
        self._checked = False

    def verify(self) -> None:
        """Compare the drawn values with those of a second network now, so that the next run need not."""
        if self._sources is not None and not self._checked:
            self.of(self._seed)

    def of(self, seed: int) -> State:
        """Return the initial values of a network built from `seed`. Sets the global seeds, as building it would."""
        drawn = self._draw(seed) if self._sources is not None else None
        if drawn is not None and self._checked:
            return drawn
        set_seeds(seed)
        built = values_of(self._build())
        if drawn is not None:
            self._checked = _equal(drawn, built)
            self._sources = self._sources if self._checked else None
        return built

    def _draw(self, seed: int) -> State:
        assert self._sources is not None
        set_seeds(seed)
        count = max((source.draw + 1 for source in self._sources if isinstance(source, _Drawn)), default=0)
        draws = [random.randint(1, _HIGHEST) for _ in range(count)]
        return [source.value(draws[source.draw]) if isinstance(source, _Drawn) else source for source in self._sources]


def _sources(model: keras.Model, seed: int) -> list[_Drawn | NDArray[Any]] | None:
    """Return where each value of `state_of` comes from: a draw, or the same value for every seed."""
    generator = random.Random(seed)
    count = 4 * len(model.variables) + _MORE_DRAWS
    draws = {generator.randint(1, _HIGHEST): draw for draw in range(count)}
    if len(draws) < count:
        return None  # two draws are the same number
    by_id: dict[int, _Drawn] = {}
    for layer in model.layers:
        for variable in layer.variables:
            initializer = getattr(layer, f"{variable.name}_initializer", None)
            drawn, shape = getattr(initializer, "seed", None), tuple(variable.shape)
            if isinstance(drawn, int) and drawn in draws:
                by_id[id(variable)] = _Drawn(draws[drawn], initializer, shape, variable.dtype)
            elif id(variable) == id(getattr(getattr(layer, "seed_generator", None), "state", None)):
                own = int(keras.ops.convert_to_numpy(variable)[0])
                if own in draws:
                    by_id[id(variable)] = _Drawn(draws[own], None, shape, variable.dtype)
    return [by_id.get(id(variable), value) for variable, value in zip(state_of(model), values_of(model), strict=True)]


def _equal(one: State, other: State) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(one, other, strict=True)
    )
