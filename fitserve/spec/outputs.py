"""Targets, losses and output layers: chosen where they are left out, checked against each other where they are said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.errors import Problem
from fitserve.spec import losses
from fitserve.spec.activations import PROBABILITIES, RANGES
from fitserve.spec.layers.core import ELU, Activation, Dense, ReLU, Softmax
from fitserve.spec.layers.layer import Layer, written
from fitserve.spec.losses import Loss
from fitserve.spec.target import Target
from fitserve.spec.wiring import Wired

SCALED = (losses.MeanSquaredError, losses.MeanAbsoluteError, losses.Huber, losses.LogCosh, losses.Quantile)
LARGE = 10.0  # targets whose mean or spread is beyond it are standardised by default


def activation_of(layer: Layer) -> str | None:
    """The activation that a layer ends with; None where it is not known by name."""
    if isinstance(layer, Activation):
        return layer.activation
    if isinstance(layer, Softmax):
        return "softmax"
    if isinstance(layer, ReLU):
        return "relu" if layer.negative_slope == 0 and layer.threshold == 0 and layer.max_value is None else None
    if isinstance(layer, ELU):
        return "elu"
    name = getattr(layer, "activation", None)
    return name if isinstance(name, str) else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A target with its loss and, where the network says none, its output layer."""

    target: Target
    loss: Loss
    layer: Dense | None


def choose(target: Target, said: Loss | None, output: Wired | None, one_hot: bool, smoothing: float | None) -> Chosen:
    """Loss, encoding and output layer of a target whose task is known. `one_hot`: a metric wants the labels so."""
    activation = activation_of(output.layer) if output else None
    units = output.shape[0] if output and len(output.shape) == 1 else None
    if target.task == "binary" and (
        (said is not None and said.expects in ("index", "one_hot")) or (said is None and units == 2)
    ):
        target = target.model_copy(update={"task": "multiclass"})  # two labels, a unit for each
    loss = said or _default_loss(target, activation, one_hot, smoothing)
    encoding = _encoding(target, loss)
    layer = None
    if output is None:
        layer = Dense(units=loss.units() or target.units or 1, activation=_output_activation(target, loss))
    return Chosen(target.model_copy(update={"encoding": encoding}), loss, layer)


def _default_loss(target: Target, activation: str | None, one_hot: bool, smoothing: float | None) -> Loss:
    logits = activation == "linear"
    if target.task in ("binary", "multilabel"):
        return losses.BinaryCrossentropy(from_logits=logits, label_smoothing=smoothing or 0.0)
    if target.task == "multiclass":
        if one_hot or smoothing:
            return losses.CategoricalCrossentropy(from_logits=logits, label_smoothing=smoothing or 0.0)
        return losses.SparseCategoricalCrossentropy(from_logits=logits)
    return losses.MeanSquaredError()


def _encoding(target: Target, loss: Loss) -> str:
    if target.task == "multiclass":
        return "index" if loss.expects == "index" else "one_hot"
    return "numbers" if target.task == "regression" else "binary"


def _output_activation(target: Target, loss: Loss) -> str:
    if getattr(loss, "from_logits", False):
        return "linear"
    if loss.expects != "numbers" or target.task == "regression":
        return loss.output
    return "softmax" if target.task == "multiclass" else "sigmoid"


def check(
    chosen: Chosen, output: Wired, facts: DatasetFacts, loss_pointer: str, problems: list[Problem], warn: Any
) -> None:
    """The loss against the target and against the output layer."""
    _check_loss(chosen, facts, loss_pointer, problems)
    _check_shape(chosen, output, problems)
    _check_activation(chosen, output, problems, warn)
    if chosen.target.task == "regression":
        _check_range(chosen, output, facts.by_name[chosen.target.column], problems, warn)


def _check_loss(chosen: Chosen, facts: DatasetFacts, pointer: str, problems: list[Problem]) -> None:
    target, loss = chosen.target, chosen.loss
    name = type(loss).__name__

    def refuse(detail: str, expected: str) -> None:
        problems.append(Problem(detail, pointer, received=name, expected=expected, fix="loss: auto"))

    if target.task == "regression":
        column = facts.by_name[target.column]
        low, high = column.min or 0.0, column.max or 0.0
        if loss.expects in ("index", "one_hot"):
            refuse(f"{name} tells labels apart; {target.name!r} is a number.", "MeanSquaredError, Huber, ...")
        elif loss.expects == "binary" and (low < 0 or high > 1):
            refuse(
                f"{name} takes targets from 0 to 1; {target.name!r} goes from {low:g} to {high:g}.", "MeanSquaredError"
            )
        elif isinstance(loss, (losses.Poisson, losses.MeanSquaredLogarithmicError)) and low < 0:
            refuse(
                f"{name} takes no negative targets; {target.name!r} begins at {low:g}.", "MeanSquaredError, Huber, ..."
            )
    elif isinstance(loss, losses.Quantile):
        refuse(
            f"{name} is for numbers; {target.name!r} has labels.", "BinaryCrossentropy, CategoricalCrossentropy, ..."
        )
    elif target.task == "multilabel" and loss.expects in ("index", "one_hot"):
        refuse(f"{name} takes one label a row; {target.name!r} can have several.", "BinaryCrossentropy")
    if isinstance(loss, losses.CosineSimilarity) and target.units == 1:
        refuse("The cosine between two single numbers is 1 or -1, whatever they are.", "MeanSquaredError")


def _check_shape(chosen: Chosen, output: Wired, problems: list[Problem]) -> None:
    wanted = chosen.loss.units() or chosen.target.units
    if output.shape == (wanted,):
        return
    if len(output.shape) != 1:
        detail = f"The output {output.name!r} is {written(output.shape)}; a row's output is one axis, (None, {wanted})."
        problems.append(Problem(detail, output.pointer, received=list(output.shape), fix="Put Flatten before it."))
        return
    target = chosen.target
    why = {
        "multiclass": f"one for each of {wanted} labels",
        "multilabel": f"one for each of {wanted} columns",
    }.get(str(target.task), "one for the target" if wanted == 1 else f"one for each of {wanted} quantiles")
    problems.append(
        Problem(
            f"The output {output.name!r} has {output.shape[0]} units; {target.name!r} needs {wanted}, {why}.",
            output.pointer,
            received=output.shape[0],
            expected=str(wanted),
            fix=f"units: {wanted}",
        )
    )


def _check_activation(chosen: Chosen, output: Wired, problems: list[Problem], warn: Any) -> None:
    activation, loss, target = activation_of(output.layer), chosen.loss, chosen.target
    name = type(loss).__name__

    def refuse(detail: str, fix: str) -> None:
        problems.append(Problem(detail, output.pointer, received=activation, fix=fix))

    if activation is None:
        return
    if activation in ("softmax", "sparsemax") and output.shape == (1,):
        refuse(
            f"{activation} with one unit always says 1.",
            "activation: sigmoid" if target.labels else "activation: linear",
        )
    elif activation == "log_softmax" and output.shape == (1,):
        refuse("log_softmax with one unit always says 0.", "activation: linear")
    elif activation in ("softmax", "sparsemax") and target.task == "multilabel":
        refuse(
            f"{activation} shares 1 between the labels; of {target.name!r} several can be true.", "activation: sigmoid"
        )
    elif getattr(loss, "from_logits", False):
        if activation in PROBABILITIES:
            refuse(f"{name} with from_logits takes logits; {activation} says probabilities.", "activation: linear")
        elif activation != "linear":
            warn(f"Logits are unbounded; {activation} bounds them.", output.pointer, "activation: linear")
    elif loss.probabilities and activation not in PROBABILITIES:
        good = loss.output
        refuse(
            f"{name} takes probabilities; {activation} does not say them.", f"activation: {good}, or from_logits: true"
        )
    elif loss.expects in ("index", "one_hot") and loss.probabilities and activation not in ("softmax", "sparsemax"):
        warn(
            f"{activation} gives each label a probability of its own; one label is right.",
            output.pointer,
            "activation: softmax",
        )
    elif loss.output == "tanh" and activation in PROBABILITIES:
        warn(f"{name} wants outputs from -1 to 1; {activation} says 0 to 1.", output.pointer, "activation: tanh")


def _check_range(chosen: Chosen, output: Wired, column: ColumnFacts, problems: list[Problem], warn: Any) -> None:
    activation = activation_of(output.layer) or "linear"
    low, high = RANGES.get(activation, (float("-inf"), float("inf")))
    if isinstance(chosen.loss, losses.Poisson) and low < 0:
        problems.append(
            Problem(
                f"Poisson takes the logarithm of the output; {activation} can be negative.",
                output.pointer,
                received=activation,
                fix="activation: exponential, or softplus",
            )
        )
    if chosen.target.standardize or column.min is None or column.max is None:
        return
    if column.min < low or column.max > high:
        warn(
            f"{activation} says {low:g} to {high:g}; {column.name!r} goes from {column.min:g} to {column.max:g}.",
            output.pointer,
            "activation: linear",
        )


def standardized(chosen: Chosen, output: Wired, facts: DatasetFacts, pointer: str, problems: list[Problem]) -> Target:
    """The target with `standardize` decided: by default for large numbers, linear outputs and losses that allow it."""
    target = chosen.target
    if target.task != "regression":
        if target.standardize:
            problems.append(Problem("Only a regression target can be standardised.", pointer, received=True))
        return target.model_copy(update={"standardize": False})
    can = isinstance(chosen.loss, SCALED) and activation_of(output.layer) in (None, "linear")
    if target.standardize and not can:
        name = type(chosen.loss).__name__
        problems.append(
            Problem(
                f"A standardised target is negative half the time; {name} and the output's activation do not allow it.",
                pointer,
                received=True,
                expected="a linear output and MeanSquaredError, MeanAbsoluteError, Huber, LogCosh or Quantile",
            )
        )
    if target.standardize is None:
        column = facts.by_name[target.column]
        large = max(abs(column.mean or 0.0), column.std or 0.0) > LARGE
        target = target.model_copy(update={"standardize": can and large})
    return target


def metrics_want_one_hot(metrics: Any, target: str) -> bool:
    """Whether a metric takes one-hot labels and no indices."""
    listed = metrics.get(target, []) if isinstance(metrics, Mapping) else metrics if isinstance(metrics, list) else []
    return any("one_hot" in getattr(m, "expects", ()) and "index" not in getattr(m, "expects", ()) for m in listed)


def finishing(target: Target, loss: Loss, layer: Layer) -> str | None:
    """What turns an output into what is served: probabilities in place of logits or scores from -1 to 1.

    `sigmoid` or `softmax`, `halved` for (1 + score) / 2, None where the output is served as it is.
    """
    activation = activation_of(layer)
    if target.task == "regression" or activation in PROBABILITIES:
        return None
    if getattr(loss, "from_logits", False) or isinstance(loss, losses.CategoricalHinge):
        return "softmax" if target.task == "multiclass" else "sigmoid"
    if isinstance(loss, (losses.Hinge, losses.SquaredHinge)):
        return "halved" if RANGES.get(activation or "") == (-1.0, 1.0) else "sigmoid"
    return None
