"""A checkpoint: one file of arrays and JSON, from which a run goes on as if nothing had happened.

It holds the network's variables (weights, batch statistics, the states of random generators), the
optimizer's, the metrics' in the middle of an epoch, the callbacks' state, the trials that are done
and the best of their networks. An `.npz` without pickles: arrays by name, and the JSON as bytes.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

FORMAT = 1


class Unusable(Exception):
    """This file is no checkpoint of this run."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`body` is JSON; `arrays` are what it speaks of."""

    body: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def write(self, path: Path) -> None:
        """Durably: whole or not at all."""
        told = {"format": FORMAT, **self.body}
        arrays = {**self.arrays, "body": np.frombuffer(json.dumps(told).encode(), np.uint8)}
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Raises Unusable."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            body = json.loads(arrays.pop("body").tobytes())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise Unusable(str(error)) from None
        if body.get("format") != FORMAT:
            raise Unusable(f"format {body.get('format')}")
        return cls(body, arrays)


def variables(model: keras.Model) -> dict[str, np.ndarray]:
    """All that a model in training consists of, by place: `model/0`, `optimizer/3`, `metrics/1`."""
    return {name: variable.value.numpy() for name, variable in _variables(model).items()}


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Put back what `variables` took. Raises Unusable where the network is another one."""
    mine = _variables(model)
    found = {name: value for name, value in arrays.items() if name.split("/")[0] in ("model", "optimizer", "metrics")}
    if mine.keys() != found.keys() or any(tuple(mine[name].shape) != found[name].shape for name in mine):
        raise Unusable("its variables are not this network's")
    for name, variable in mine.items():
        variable.assign(found[name])


def of_epochs(group: str, kept: Mapping[int, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Kept epochs' weights by name: `kept/12/0`."""
    return {f"{group}/{epoch}/{at}": w for epoch, weights in kept.items() for at, w in enumerate(weights)}


def by_epoch(group: str, arrays: Mapping[str, np.ndarray]) -> dict[int, list[np.ndarray]]:
    """The inverse of `of_epochs`."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.startswith(f"{group}/"):
            epoch, at = name.removeprefix(f"{group}/").split("/")
            found.setdefault(int(epoch), {})[int(at)] = array
    return {epoch: [weights[at] for at in sorted(weights)] for epoch, weights in found.items()}


def _variables(model: keras.Model) -> dict[str, Any]:
    own = [v for v in model.variables if not _belongs(v, model.optimizer.variables)]
    groups = {"model": own, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
    return {f"{group}/{place}": v for group, members in groups.items() for place, v in enumerate(members)}


def _belongs(variable: Any, others: Sequence[Any]) -> bool:
    return any(variable is other for other in others)


# What Keras's callbacks remember between epochs, beside their arguments.
_MEMORY = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
}


def callback_state(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What the callbacks remember, and EarlyStopping's best weights."""
    states: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for place, callback in enumerate(callbacks):
        state: dict[str, Any] = {}
        for name in _MEMORY.get(type(callback), ()):
            value = getattr(callback, name, None)
            state[name] = value if value is None or isinstance(value, int) else float(value)
        for at, weight in enumerate(getattr(callback, "best_weights", None) or ()):
            arrays[f"callback{place}/{at}"] = np.asarray(weight)
        states.append(state)
    return states, arrays


def restore_callbacks(
    callbacks: Sequence[keras.callbacks.Callback],
    model: keras.Model,
    states: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Put back what `callback_state` took; after `on_train_begin`, which makes them forget."""
    for place, (callback, state) in enumerate(zip(callbacks, states, strict=True)):
        for name, value in state.items():
            setattr(callback, name, value)
        names = [f"callback{place}/{at}" for at in range(len(model.weights))]
        if weights := [arrays[name] for name in names if name in arrays]:
            callback.best_weights = weights
