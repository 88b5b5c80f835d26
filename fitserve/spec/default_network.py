"""Defaults for what a spec leaves out: network, batch size, epochs, early stopping, ensemble.

Evaluated on tables that were not used to choose it: docs/explanation/default-network.md. `preset: plain` is a minimal
network for teaching. A spec that states its network trains just that one, with early stopping unless the spec sets the
epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitserve.spec.feature import DENSE, EncodedInput
from fitserve.spec.graph import layer_name
from fitserve.spec.network import DEFAULT, PLAIN, LayerEntry, read_network
from fitserve.spec.spec import Spec
from fitserve.spec.target import Target
from fitserve.spec.training import EarlyStopping, Training

EPOCHS = 200
# (training rows up to, patience in epochs): an epoch of a million rows is already a thousand steps.
PATIENCES = ((200_000, 20), (1_000_000, 10))
LEAST_PATIENCE = 5
FEWEST_EPOCHS = 20  # lower bound when a time budget reduces epochs that the spec leaves out
# (training rows up to, batch size): small batches are essential on a few thousand rows, and slow on many.
BATCHES = ((4_500, 32), (9_000, 64), (18_000, 128), (50_000, 256), (200_000, 512))
MAX_BATCH = 1024
MAX_EMBEDDED = 64
# total bins over all columns: the steps in which a time budget reduces bins that the spec leaves out
TOTAL_BINS = (96, 48, 0)


def leaves_network_out(spec: Spec) -> bool:
    """Return whether the spec leaves its network out."""
    return spec.preset is None and "network" not in spec.model_fields_set


def adds_linear_part(targets: Sequence[Target]) -> bool:
    """Return whether the output also reads the inputs directly: a numeric target may be nearly linear in them."""
    return any(target.task == "regression" for target in targets)


def network_of(spec: Spec, inputs: Sequence[EncodedInput], targets: Sequence[Target]) -> tuple[LayerEntry, ...]:
    """Return the spec's network, or the one that it leaves out."""
    if "network" in spec.model_fields_set:
        return spec.network
    if spec.preset == "plain":
        return read_network([*_joined(inputs), *PLAIN])
    hidden = list(DEFAULT)
    if adds_linear_part(targets) and any(one.name == DENSE and one.cardinality is None for one in inputs):
        taken = {one.name for one in inputs} | {layer_name(target.name) for target in targets}
        deep, both = _free("deep", taken), _free("wide_and_deep", taken)
        hidden[-1] = {**hidden[-1], "name": deep}
        hidden.append({"Concatenate": {}, "name": both, "inputs": [deep, DENSE]})
    return read_network([*_joined(inputs), *hidden])


def _joined(inputs: Sequence[EncodedInput]) -> list[Any]:
    """Return the layers that join all inputs into one; each integer input passes through its own embedding."""
    if len(inputs) == 1 and inputs[0].cardinality is None:
        return []
    layers: list[Any] = []
    ends = [one.name for one in inputs if one.cardinality is None]
    for one in inputs:
        if one.cardinality is None:
            continue
        taken = {layer["name"] for layer in layers} | {other.name for other in inputs}
        name, end = (_free(f"{one.name.replace('/', '_')}_{what}", taken) for what in ("embedding", "embedded"))
        width = min(MAX_EMBEDDED, max(2, round(1.6 * one.cardinality**0.56)))
        embedding = {"Embedding": {"input_dim": one.cardinality, "output_dim": width}}
        layers += [
            {**embedding, "name": name, "inputs": [one.name]},
            {"Flatten" if one.shape == (1,) else "GlobalAveragePooling1D": {}, "name": end, "inputs": [name]},
        ]
        ends.append(end)
    if len(ends) > 1:
        layers.append({"Concatenate": {}, "inputs": sorted(ends, key=lambda end: end != DENSE)})
    return layers


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def training_of(spec: Spec, training_rows: int, validation: bool) -> Training:
    """Return the spec's training with batches, epochs and early stopping written out.

    `training_rows` are those that a network trains on; `validation`: rows are held out.
    """
    training, stated = spec.training, spec.training.model_fields_set
    # Defaults are written out too, so that the result resolves to itself.
    updates: dict[str, Any] = {name: getattr(training, name) for name in ("batch_size", "epochs", "early_stopping")}
    stops = validation and spec.preset is None and "early_stopping" not in stated
    if leaves_network_out(spec):
        updates |= {"batch_size": batch_size(training_rows), "epochs": EPOCHS}
    elif {"epochs", "keep_epochs"} & stated:
        stops = False  # the spec sets the epochs, so it gets all of them
    if stops:
        updates["early_stopping"] = EarlyStopping(patience=patience(training_rows), restore_best_weights=True)
    return training.model_copy(update={name: value for name, value in updates.items() if name not in stated})


def patience(rows: int) -> int:
    """Return early stopping's patience in epochs for this number of training rows."""
    return next((epochs for most, epochs in PATIENCES if rows <= most), LEAST_PATIENCE)


def batch_size(rows: int) -> int:
    """Return the batch size for this number of training rows."""
    return next((size for most, size in BATCHES if rows <= most), MAX_BATCH)


def shrunk_epochs(epochs: int, seconds: float, startup: float, budget: float) -> int:
    """Return how many of `epochs` fit the budget; all of them take `seconds`, startup included."""
    share = max(0.0, budget - startup) / max(seconds - startup, 1e-9)
    return max(min(epochs, FEWEST_EPOCHS), min(epochs, int(epochs * share)))


def described(shrunk: Mapping[str, int]) -> str:
    """Describe in words what was reduced."""
    return ", ".join(f"{name} ({size} without it)" for name, size in shrunk.items())
