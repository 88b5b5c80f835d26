"""The hyperparameters that may differ between the replicas of a stack, and the parts of a spec that must be equal.

Seed, learning rate and its schedule, weight decay, momentum and the like, L1 and L2, the rate of Dropout, label
smoothing: all of them are numbers that one operation on a stacked tensor can take as an array.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fitserve.spec.losses import BinaryCrossentropy, CategoricalCrossentropy
from fitserve.spec.spec import Spec
from workers.trainer.engine.network import build_optimizer
from workers.trainer.engine.replica_optimizer import VARYING, structure

_REGULARIZERS = ("L1", "L2", "L1L2")
_SMOOTHED = (BinaryCrossentropy, CategoricalCrossentropy)
# Random layers other than Dropout draw one stream for the whole stack, so a trial would differ from the same trial
# alone.
_SHARED_STREAM = ("GaussianDropout", "GaussianNoise")


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """Hyperparameters of each replica, in the order of the stack."""

    rates: dict[str, list[float]]  # Dropout rates by layer name
    penalties: dict[tuple[str, str], list[tuple[float, float]]]  # L1 and L2, by layer and variable
    smoothing: dict[str, list[float]]  # by target
    optimizers: list[Any]

    @classmethod
    def of(cls, specs: Sequence[Spec], steps_per_epoch: int) -> ReplicaSettings:
        """Build the settings from resolved specs that share a `signature`."""
        rates: dict[str, list[float]] = {}
        penalties: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for entries in zip(*(spec.network for spec in specs), strict=True):
            name, layers = str(entries[0].name), [entry.layer for entry in entries]
            if type(layers[0]).__name__ == "Dropout":
                rates[name] = [float(layer.rate) for layer in layers]
            for field in type(layers[0]).model_fields:
                if _is_weight_regularizer(field):
                    own = [_l1_l2(getattr(layer, field)) for layer in layers]
                    if any(l1 or l2 for l1, l2 in own):
                        penalties[name, field.removesuffix("_regularizer")] = own
        smoothing = {
            target: [float(spec.training.loss[target].label_smoothing) for spec in specs]
            for target, loss in specs[0].training.loss.items()
            if isinstance(loss, _SMOOTHED)
        }
        smoothing = {target: own for target, own in smoothing.items() if any(own)}
        return cls(rates, penalties, smoothing, [build_optimizer(spec, steps_per_epoch) for spec in specs])

    @classmethod
    def beside_another(cls, spec: Spec, steps_per_epoch: int, differing: Sequence[str]) -> ReplicaSettings:
        """Build the settings of a spec stacked with a made-up second one that differs in these optimizer arguments.

        Which arguments differ decides the computation: by one kernel if they are numbers, in separate operations if
        they are arrays.
        """
        own = cls.of([spec, spec], steps_per_epoch)
        one, other = own.optimizers
        config = other.get_config()
        others = {key: config[key] / 2 or 0.5 for key in differing}
        return replace(own, optimizers=[one, type(other).from_config({**config, **others})])

    @property
    def structure(self) -> str | None:
        """Return, as text, the constants that the settings are traced with; None if the learning rate has a schedule.

        Settings of one structure, and as many of them, can take each other's place in a traced stack.
        """
        optimizers = structure(self.optimizers)
        dropped = sorted(name for name, own in self.rates.items() if any(own))
        names = [dropped, sorted(map(list, self.penalties)), sorted(self.smoothing)]
        return None if optimizers is None else json.dumps([optimizers, names], sort_keys=True, default=str)

    def of_some(self, replicas: Sequence[int]) -> ReplicaSettings:
        """Return the settings of these replicas."""

        def some(values: Sequence[Any]) -> list[Any]:
            return [values[replica] for replica in replicas]

        return ReplicaSettings(
            {name: some(own) for name, own in self.rates.items()},
            {name: some(own) for name, own in self.penalties.items()},
            {name: some(own) for name, own in self.smoothing.items()},
            some(self.optimizers),
        )


def _is_weight_regularizer(field: str) -> bool:
    return field.endswith("_regularizer") and field != "activity_regularizer"


def _l1_l2(regularizer: Any) -> tuple[float, float]:
    return tuple(float(getattr(regularizer, name, 0.0) or 0.0) for name in ("l1", "l2"))  # type: ignore[return-value]


def signature(spec: Spec) -> str | None:
    """Return, as text, what all trials of one stack must share; None if the trial must be trained by itself."""
    if spec.ensemble is not None or spec.training.restarts > 1 or spec.training.reduce_lr_on_plateau is not None:
        return None
    body = spec.to_json()
    for entry in body["network"]:
        for name, arguments in entry.items():
            if name in _SHARED_STREAM:
                return None
            if isinstance(arguments, dict):
                _forget_settings(name, arguments)
    training = body["training"]
    ((name, arguments),) = training["optimizer"].items()
    for key in ("learning_rate", "weight_decay", *VARYING.get(name, ())):
        arguments.pop(key, None)
    for target, loss in spec.training.loss.items():
        if isinstance(loss, _SMOOTHED):
            next(iter(training["loss"][target].values())).pop("label_smoothing", None)
    for key in ("seed", "warmup", "label_smoothing"):
        training.pop(key, None)
    body["seed_of_split"] = spec.split.seed if spec.split.seed is not None else spec.training.seed
    for key in ("model", "search", "shrunk", "time_budget", "protected"):
        body.pop(key, None)
    return json.dumps(body, sort_keys=True)


def _forget_settings(name: str, arguments: dict[str, Any]) -> None:
    if name == "Dropout":
        arguments.pop("rate", None)
    for field in list(arguments):
        value = arguments[field]
        known = value is None or (isinstance(value, dict) and next(iter(value), None) in _REGULARIZERS)
        if _is_weight_regularizer(field) and known:
            del arguments[field]
