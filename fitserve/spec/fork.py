"""Forks: repeat a run's training up to an epoch, then continue with another learning rate or optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitserve.errors import BadInput

Json = Mapping[str, Any]
_OTHER_KINDS = {"search": "a search", "ablate": "an ablation", "check": "a check"}


def fork(
    resolved: Json,
    epoch: int,
    *,
    optimizer: Any = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    trial: int = 0,
) -> dict[str, Any]:
    """Return the spec that trains as a resolved one does up to `epoch`, then with another optimizer.

    Without an `optimizer`, the one at that epoch continues; `learning_rate` replaces its own. `epochs` is the new run's
    total; by default as many as the run had or, for a fork at its last epoch, twice as many. `trial` (from 0) is the
    restart that continues; all members of an ensemble continue. Raises BadInput if the spec compares networks.
    """
    _refuse_comparisons(resolved)
    training = resolved["training"]
    earlier = [switch for switch in training.get("switches") or () if switch["after"] < epoch]
    if optimizer is None:
        optimizer = earlier[-1]["optimizer"] if earlier else training["optimizer"]
    if learning_rate is not None:
        if isinstance(optimizer, str):
            optimizer = {optimizer: {}}
        ((name, arguments),) = optimizer.items()
        optimizer = {name: {**arguments, "learning_rate": learning_rate}}
    if epochs is None:
        epochs = training["epochs"] if epoch < training["epochs"] else epoch + training["epochs"]
    changed = {
        **training,
        "switches": [*earlier, {"after": epoch, "optimizer": optimizer}],
        "epochs": epochs,
        "keep_epochs": [number for number in training["keep_epochs"] if number <= epochs],
    }
    changed.pop("stacked", None)  # the chosen trial continues by itself
    split = resolved["split"]
    if training["restarts"] > 1:
        changed |= {"restarts": 1, "seed": training["seed"] + trial}
        split = {**split, "seed": training["seed"] if split["seed"] is None else split["seed"]}
    return {**resolved, "training": changed, "split": split}


def _refuse_comparisons(resolved: Json) -> None:
    for key, what in _OTHER_KINDS.items():
        if resolved.get(key):
            detail = f"The run is {what}, not the training of one network or ensemble."
            fix = "Train its best trial as a run of its own, and fork that." if key == "search" else None
            raise BadInput(detail, fix=fix)
