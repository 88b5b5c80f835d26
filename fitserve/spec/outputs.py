"""Targets, losses and output layers: chosen where they are left out, checked against each other where they are said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitserve.errors import Problem
from fitserve.spec import losses as L
from fitserve.spec.activations import PROBABILITIES, RANGES
from fitserve.spec.facts import ColumnFacts, DatasetFacts
from fitserve.spec.layers import Layer
from fitserve.spec.layers.core import ELU, Activation, Dense, ReLU, Softmax
from fitserve.spec.layers.layer import written
from fitserve.spec.losses import Loss
from fitserve.spec.problems import nearest
from fitserve.spec.target import Target, Task
from fitserve.spec.wiring import Wired

SCALED = (L.MeanSquaredError, L.MeanAbsoluteError, L.Huber, L.LogCosh, L.Quantile)
LARGE = 10.0  # targets whose mean or spread is beyond it are standardised by default


def inferred(target: Target, wanted: Task | None, facts: DatasetFacts, pointer: str, problems: list[Problem]) -> Target:
    """The target with task and labels. Problems are appended; the target is then returned as far as it is known."""
    for column in target.columns:
        if column not in facts.by_name:
            near = nearest(column, facts.by_name)
            problems.append(
                Problem(
                    f"The dataset {facts.name}@{facts.version} has no column {column!r}.",
                    pointer,
                    column=column,
                    received=column,
                    expected=f"one of {', '.join(list(facts.by_name)[:50])}",
                    fix=f"Did you mean {near[0]}?" if near else None,
                )
            )
    if any(column not in facts.by_name for column in target.columns):
        return target
    task = target.task or (wanted if wanted != "multilabel" else None)
    task = task or (
        "multilabel" if len(target.columns) > 1 or wanted == "multilabel" else _task_of(facts.by_name[target.column])
    )
    if task is None:
        kind = facts.by_name[target.column].kind
        problems.append(
            Problem(
                f"What kind of target {target.column!r} is does not follow from a {kind} column.",
                pointer,
                column=target.column,
                expected="task: binary, multiclass or regression",
                fix="Say the task, or choose another column.",
            )
        )
        return target
    if task == "multilabel":
        return _multilabel(target, facts, pointer, problems)
    return _single(target, task, facts.by_name[target.column], pointer, problems)


def _task_of(column: ColumnFacts) -> Task | None:
    labels = column.labels
    if column.kind == "boolean" or (column.kind == "numeric" and labels in (("0", "1"), ("0.0", "1.0"))):
        return "binary"
    if column.kind == "numeric" or (column.kind == "ignored" and column.storage in ("int64", "float64")):
        return "regression"
    if column.kind in ("categorical", "ignored") and column.storage != "timestamp":
        return "binary" if column.distinct == 2 else "multiclass"
    return None


def _single(target: Target, task: Task, column: ColumnFacts, pointer: str, problems: list[Problem]) -> Target:
    def refuse(detail: str, fix: str | None = None) -> Target:
        problems.append(Problem(detail, pointer, column=column.name, fix=fix))
        return target.model_copy(update={"task": task})

    if task == "regression":
        if target.labels is not None:
            return refuse("A regression target has no labels.", "task: multiclass")
        if column.storage not in ("int64", "float64", "bool"):
            return refuse(f"{column.name!r} is not numbers; it cannot be a regression target.", "task: multiclass")
        return target.model_copy(update={"task": task})
    labels = target.labels or column.labels
    if labels is None:
        return refuse(
            f"{column.name!r} has {column.distinct} different values; a classification has at most 1000 labels.",
            "task: regression" if column.storage in ("int64", "float64") else "Choose another target.",
        )
    strange = [label for label in labels if column.labels is not None and label not in column.labels]
    absent = [label for label in column.labels or () if label not in labels]
    if strange or absent:
        return refuse(
            f"The labels of {column.name!r} are {', '.join(map(repr, (column.labels or ())[:20]))}; "
            f"these were given: {', '.join(map(repr, labels[:20]))}.",
            "Leave labels out, or give all of them in the order that you want.",
        )
    if len(labels) < 2:
        return refuse(f"{column.name!r} has one value only; there is nothing to tell apart.", "Choose another target.")
    if task == "binary" and len(labels) != 2:
        return refuse(f"{column.name!r} has {len(labels)} labels; a binary target has two.", "task: multiclass")
    return target.model_copy(update={"task": task, "labels": tuple(labels), "standardize": target.standardize or False})


def _multilabel(target: Target, facts: DatasetFacts, pointer: str, problems: list[Problem]) -> Target:
    for name in target.columns:
        column = facts.by_name[name]
        if column.kind != "boolean" and column.labels not in (("0", "1"), ("0.0", "1.0"), ("0",), ("1",)):
            problems.append(
                Problem(
                    f"The columns of a multi-label target say 0 or 1; {name!r} does not.",
                    pointer,
                    column=name,
                    received=column.kind,
                    expected="a boolean column, or one of 0 and 1",
                    fix=f"Make {name} a target of its own.",
                )
            )
    if target.labels is not None and target.labels != target.columns:
        problems.append(
            Problem("The labels of a multi-label target are its columns.", pointer, fix="Leave labels out.")
        )
    return target.model_copy(
        update={"task": "multilabel", "labels": target.columns, "standardize": target.standardize or False}
    )


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
        return L.BinaryCrossentropy(from_logits=logits, label_smoothing=smoothing or 0.0)
    if target.task == "multiclass":
        if one_hot or smoothing:
            return L.CategoricalCrossentropy(from_logits=logits, label_smoothing=smoothing or 0.0)
        return L.SparseCategoricalCrossentropy(from_logits=logits)
    return L.MeanSquaredError()


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
        elif isinstance(loss, (L.Poisson, L.MeanSquaredLogarithmicError)) and low < 0:
            refuse(
                f"{name} takes no negative targets; {target.name!r} begins at {low:g}.", "MeanSquaredError, Huber, ..."
            )
    elif isinstance(loss, L.Quantile):
        refuse(
            f"{name} is for numbers; {target.name!r} has labels.", "BinaryCrossentropy, CategoricalCrossentropy, ..."
        )
    elif target.task == "multilabel" and loss.expects in ("index", "one_hot"):
        refuse(f"{name} takes one label a row; {target.name!r} can have several.", "BinaryCrossentropy")
    if isinstance(loss, L.CosineSimilarity) and target.units == 1:
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
    if isinstance(chosen.loss, L.Poisson) and low < 0:
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
