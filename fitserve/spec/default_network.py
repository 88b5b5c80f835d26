"""What is trained where a spec leaves it out: network, batches, epochs, early stopping, ensemble.

Measured on tables that it was not chosen by: docs/explanation/default-network.md. `preset: plain` is the bare network
of a first course instead. Who names a network keeps one network, which stops early unless training says how long.
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
# Training rows up to which early stopping waits so many epochs: an epoch of a million rows is a thousand steps.
PATIENCES = ((200_000, 20), (1_000_000, 10))
LEAST_PATIENCE = 5
FEWEST_EPOCHS = 20  # to which a time budget reduces those that a spec leaves out
# Rows up to which a batch has so many rows. Small batches are essential on a few thousand rows, slow on many.
BATCHES = ((4_500, 32), (9_000, 64), (18_000, 128), (50_000, 256), (200_000, 512))
MAX_BATCH = 1024
MAX_EMBEDDED = 64
PIECES = (96, 48, 0)  # bins of all columns together, to which a time budget reduces those that a spec leaves out


def leaves_network_out(spec: Spec) -> bool:
    """Return whether the spec leaves its network to us."""
    return spec.preset is None and "network" not in spec.model_fields_set


def adds_linear_part(targets: Sequence[Target]) -> bool:
    """Return whether the output also reads the inputs directly: a number may be almost a sum of others."""
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
    """Return the layers that bring all inputs into one: integers through an embedding of their own."""
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
    # Written out even where the default stands, so that the result resolves to itself.
    updates: dict[str, Any] = {name: getattr(training, name) for name in ("batch_size", "epochs", "early_stopping")}
    stops = validation and spec.preset is None and "early_stopping" not in stated
    if leaves_network_out(spec):
        updates |= {"batch_size": batch_size(training_rows), "epochs": EPOCHS}
    elif {"epochs", "keep_epochs"} & stated:
        stops = False  # who says how long it trains gets that
    if stops:
        updates["early_stopping"] = EarlyStopping(patience=patience(training_rows), restore_best_weights=True)
    return training.model_copy(update={name: value for name, value in updates.items() if name not in stated})


def patience(rows: int) -> int:
    """Return the epochs without improvement after which training stops, for so many training rows."""
    return next((epochs for most, epochs in PATIENCES if rows <= most), LEAST_PATIENCE)


def batch_size(rows: int) -> int:
    """Return the rows of a batch, for so many training rows."""
    return next((size for most, size in BATCHES if rows <= most), MAX_BATCH)


def shrunk_epochs(epochs: int, seconds: float, startup: float, budget: float) -> int:
    """Return how many epochs fit the budget, of `epochs` that take `seconds` with the startup."""
    share = max(0.0, budget - startup) / max(seconds - startup, 1e-9)
    return max(min(epochs, FEWEST_EPOCHS), min(epochs, int(epochs * share)))


def described(shrunk: Mapping[str, int]) -> str:
    """Return what was made smaller, in words."""
    return ", ".join(f"{name} ({size} without it)" for name, size in shrunk.items())
