"""Checkpoints: one file of arrays and JSON, from which a run continues exactly.

It holds the network's variables (weights, batch statistics, the states of random generators), the optimizer's, the
metrics' in the middle of an epoch, the callbacks' state, the finished trials and the best one's network. The format is
`.npz` without pickles: arrays by name, and the JSON as bytes.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import keras
import numpy as np

FORMAT = 1


ReadingMode = Literal["memory", "spool", "file"]
"""Where an epoch's rows come from, and with it their order and what their encoding was fitted on."""


class Unusable(Exception):
    """The file is not a checkpoint of this run."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint file."""

    body: dict[str, Any]  # JSON
    arrays: dict[str, np.ndarray]

    def write(self, path: Path) -> None:
        """Write atomically and durably."""
        body = {"format": FORMAT, **self.body}
        arrays = {**self.arrays, "body": np.frombuffer(json.dumps(body).encode(), np.uint8)}
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

    @staticmethod
    def reading(path: Path) -> ReadingMode | None:
        """Return the source of the rows that the checkpoint's run was trained on; None if the file is unusable."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cast(ReadingMode | None, json.loads(file["body"].tobytes()).get("reading"))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint file. Raises Unusable."""
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
    """Return all variables of a model being trained, by group and index: `model/0`, `optimizer/3`, `metrics/1`."""
    return {name: variable.value.numpy() for name, variable in _variables(model).items()}


def random_states(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the states of random generators among `variables`."""
    states = {name: v for name, v in _variables(model).items() if v.name == "seed_generator_state"}
    return {name: variable.value.numpy() for name, variable in states.items()}


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Assign the arrays that `variables` returned. Raises Unusable if they are from another network."""
    own = _variables(model)
    saved = {name: value for name, value in arrays.items() if name.split("/")[0] in ("model", "optimizer", "metrics")}
    if own.keys() != saved.keys() or any(tuple(own[name].shape) != saved[name].shape for name in own):
        raise Unusable("its variables are not this network's")
    for name, variable in own.items():
        variable.assign(saved[name])


def restore_network(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Assign only the network's own variables of those that `variables` returned, whatever the optimizer was."""
    for name, variable in _variables(model).items():
        if name.startswith("model/"):
            variable.assign(arrays[name])


def with_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays under `prefix/`."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def under_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `with_prefix`: return the arrays under a prefix, by their own names."""
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


def epochs_to_arrays(group: str, weights: Mapping[int, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return weights by epoch, or by another number, as named arrays: `group/12/0`."""
    return {f"{group}/{epoch}/{index}": w for epoch, of_epoch in weights.items() for index, w in enumerate(of_epoch)}


def epochs_from_arrays(group: str, arrays: Mapping[str, np.ndarray]) -> dict[int, list[np.ndarray]]:
    """Undo `epochs_to_arrays`: return the weights by epoch."""
    by_epoch: dict[int, dict[int, np.ndarray]] = {}
    for name, array in under_prefix(group, arrays).items():
        epoch, at = name.split("/")
        by_epoch.setdefault(int(epoch), {})[int(at)] = array
    return {epoch: [weights[index] for index in sorted(weights)] for epoch, weights in by_epoch.items()}


def _variables(model: keras.Model) -> dict[str, Any]:
    optimizer = {id(variable) for variable in model.optimizer.variables}
    own = [variable for variable in model.variables if id(variable) not in optimizer]
    groups = {"model": own, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
    return {f"{group}/{index}": v for group, members in groups.items() for index, v in enumerate(members)}


# State of Keras's callbacks between epochs, besides their arguments.
_STATE = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
}


def callback_state(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the state of each callback, and EarlyStopping's best weights."""
    states: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for index, callback in enumerate(callbacks):
        state: dict[str, Any] = {}
        for name in _STATE.get(type(callback), ()):
            value = getattr(callback, name, None)
            state[name] = value if value is None or isinstance(value, int) else float(value)
        for place, weight in enumerate(getattr(callback, "best_weights", None) or ()):
            arrays[f"callback{index}/{place}"] = np.asarray(weight)
        states.append(state)
    return states, arrays


def restore_callbacks(
    callbacks: Sequence[keras.callbacks.Callback],
    model: keras.Model,
    states: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Restore what `callback_state` returned. Call it after `on_train_begin`, which resets callbacks."""
    for index, (callback, state) in enumerate(zip(callbacks, states, strict=True)):
        for name, value in state.items():
            setattr(callback, name, value)
        names = [f"callback{index}/{place}" for place in range(len(model.weights))]
        if weights := [arrays[name] for name in names if name in arrays]:
            callback.best_weights = weights
