"""Choose losses and output layers that a spec leaves out; check them against each other and the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.errors import Problem
from fitserve.spec import losses
from fitserve.spec.activations import PROBABILITIES, RANGES
from fitserve.spec.graph import GraphNode
from fitserve.spec.layers.core import ELU, Activation, Dense, ReLU, Softmax
from fitserve.spec.layers.layer import Layer, format_shape
from fitserve.spec.losses import Loss
from fitserve.spec.target import Target, TargetEncoding

# Losses that allow a standardised target.
STANDARDIZABLE = (losses.MeanSquaredError, losses.MeanAbsoluteError, losses.Huber, losses.LogCosh, losses.Quantile)
LARGE = 10.0  # by default, targets with a larger mean or standard deviation are standardised,
SMALL = 0.01  # and targets with a smaller standard deviation,
FAR = 16.0  # and targets whose mean is this many standard deviations from 0
SOFTMAX = ("softmax", "sparsemax")


class Warn(Protocol):
    """Adds a warning about the output's activation."""

    def __call__(self, detail: str, pointer: str, fix: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Output:
    """A target with its loss and, if the network has no output layer for it, one to add."""

    target: Target
    loss: Loss
    layer: Dense | None


def activation_of(layer: Layer) -> str | None:
    """Return a layer's final activation; None if it has no name."""
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


def choose(target: Target, loss: Loss | None, node: GraphNode | None, one_hot: bool, smoothing: float | None) -> Output:
    """Choose loss, encoding and output layer of a target with a task. `one_hot`: a metric needs one-hot labels."""
    activation = activation_of(node.layer) if node else None
    two_units = node is not None and node.shape == (2,)
    if target.task == "binary" and (loss.expects in ("index", "one_hot") if loss else two_units):
        target = target.model_copy(update={"task": "multiclass"})  # two labels, each with its own unit
    loss = loss or _default_loss(target, activation == "linear", one_hot, smoothing or 0.0)
    layer = None
    if node is None:
        layer = Dense(units=loss.units() or target.units or 1, activation=_output_activation(target, loss))
    return Output(target.model_copy(update={"encoding": _encoding(target, loss)}), loss, layer)


def is_output(target: Target, loss: Loss | None, node: GraphNode, facts: DatasetFacts) -> bool:
    """Return whether a network's last layer already fits as the target's output, by units and activation."""
    activation = _last_activation(node)
    if activation is None:
        return False
    units = node.shape[0]
    if units == 1 and activation in (*SOFTMAX, "log_softmax"):
        return True  # counts as an output so that the check refuses it: softmax of one unit is constant
    if target.task == "regression":
        column = facts.by_name[target.column]
        if units != ((loss and loss.units()) or 1) or (activation != "linear" and activation not in RANGES):
            return False
        low, high = RANGES.get(activation, (float("-inf"), float("inf")))
        return column.min is None or column.max is None or (low <= column.min and column.max <= high)
    logits = loss is None or getattr(loss, "from_logits", False) or not loss.probabilities
    if units == 1 or target.task == "multilabel":
        fitting = [name for name in PROBABILITIES if name not in SOFTMAX]
        wanted = 1 if target.task == "binary" else target.units if target.task == "multilabel" else None
    else:
        fitting = list(SOFTMAX)
        wanted = 2 if target.task == "binary" and (loss is None or loss.expects != "binary") else None
        wanted = target.units if target.task == "multiclass" else wanted
    scores = activation == "linear" or (loss is not None and activation == loss.output)
    return units == wanted and (activation in fitting or (logits and scores))


def _last_activation(node: GraphNode) -> str | None:
    """Return the activation of a layer that could be an output; None of any other."""
    if len(node.shape) != 1 or not isinstance(node.layer, (Dense, Activation, Softmax, ReLU, ELU)):
        return None
    return activation_of(node.layer)


def explain_added(target: Target, choice: Output, node: GraphNode) -> tuple[str, str] | None:
    """Return a notice, with its fix, if an output layer is added after a layer that looks like one."""
    activation = _last_activation(node)
    if activation is None or choice.layer is None:
        return None
    units, wanted = node.shape[0], choice.layer.units
    looks_like_one = units in (1, wanted) or activation in (*SOFTMAX, "log_softmax")
    if not looks_like_one:
        return None
    fitting = choice.layer.activation
    detail = (
        f"The last layer {node.name!r} ({units} {'unit' if units == 1 else 'units'}, {activation}) does not fit"
        f" {target.name!r}; behind it an output layer is added: Dense({wanted}, {fitting})."
    )
    fix = f"units: {wanted}, activation: {fitting} make it the output; output: true takes it as it is"
    return detail, fix


def _default_loss(target: Target, logits: bool, one_hot: bool, smoothing: float) -> Loss:
    if target.task in ("binary", "multilabel"):
        return losses.BinaryCrossentropy(from_logits=logits, label_smoothing=smoothing)
    if target.task == "multiclass":
        if one_hot or smoothing:
            return losses.CategoricalCrossentropy(from_logits=logits, label_smoothing=smoothing)
        return losses.SparseCategoricalCrossentropy(from_logits=logits)
    return losses.MeanSquaredError()


def _encoding(target: Target, loss: Loss) -> TargetEncoding:
    if target.task == "multiclass":
        return "index" if loss.expects == "index" else "one_hot"
    return "numbers" if target.task == "regression" else "binary"


def _output_activation(target: Target, loss: Loss) -> str:
    if getattr(loss, "from_logits", False):
        return "linear"
    if loss.expects != "numbers" or target.task == "regression":
        return loss.output
    return "softmax" if target.task == "multiclass" else "sigmoid"


def metrics_need_one_hot(metrics: Any, target: str) -> bool:
    """Return whether a metric takes one-hot labels but not indices."""
    listed = metrics.get(target, []) if isinstance(metrics, Mapping) else metrics if isinstance(metrics, list) else []
    accepted = [getattr(metric, "expects", ()) for metric in listed]
    return any("one_hot" in encodings and "index" not in encodings for encodings in accepted)


def check(
    output: Output, node: GraphNode, facts: DatasetFacts, loss_pointer: str, problems: list[Problem], warn: Warn
) -> None:
    """Check the loss against the target and against the output layer."""
    _check_loss(output, facts, loss_pointer, problems)
    _check_shape(output, node, problems)
    _check_activation(output, node, problems, warn)
    if output.target.task == "regression":
        _check_range(output, node, facts.by_name[output.target.column], problems, warn)


def _check_loss(output: Output, facts: DatasetFacts, pointer: str, problems: list[Problem]) -> None:
    target, loss = output.target, output.loss
    name = type(loss).__name__

    def refuse(detail: str, expected: str) -> None:
        problems.append(Problem(detail, pointer, received=name, expected=expected, fix="loss: auto"))

    if target.task == "regression":
        column = facts.by_name[target.column]
        low, high = column.min or 0.0, column.max or 0.0
        if loss.expects in ("index", "one_hot"):
            refuse(f"{name} is for telling labels apart; {target.name!r} is a number.", "MeanSquaredError, Huber, ...")
        elif loss.expects == "binary" and (low < 0 or high > 1):
            detail = f"{name} takes targets from 0 to 1; {target.name!r} ranges from {low:g} to {high:g}."
            refuse(detail, "MeanSquaredError")
        elif isinstance(loss, (losses.Poisson, losses.MeanSquaredLogarithmicError)) and low < 0:
            detail = f"{name} takes no negative targets; {target.name!r} starts at {low:g}."
            refuse(detail, "MeanSquaredError, Huber, ...")
    elif isinstance(loss, losses.Quantile):
        detail = f"{name} is for numbers; {target.name!r} has labels."
        refuse(detail, "BinaryCrossentropy, CategoricalCrossentropy, ...")
    elif target.task == "multilabel" and loss.expects in ("index", "one_hot"):
        refuse(f"{name} takes one label a row; {target.name!r} can have several.", "BinaryCrossentropy")
    if isinstance(loss, losses.CosineSimilarity) and target.units == 1:
        refuse("The cosine between two single numbers is always 1 or -1.", "MeanSquaredError")


def _check_shape(output: Output, node: GraphNode, problems: list[Problem]) -> None:
    target, wanted = output.target, output.loss.units() or output.target.units
    if node.shape == (wanted,):
        return
    if len(node.shape) != 1:
        detail = f"The output {node.name!r} is {format_shape(node.shape)}; it must have one axis: (None, {wanted})."
        problems.append(Problem(detail, node.pointer, received=list(node.shape), fix="Put Flatten before it."))
        return
    per = {"multiclass": "labels", "multilabel": "columns"}.get(str(target.task), "quantiles")
    why = "one for the target" if per == "quantiles" and wanted == 1 else f"one for each of {wanted} {per}"
    problems.append(
        Problem(
            f"The output {node.name!r} has {node.shape[0]} units; {target.name!r} needs {wanted}, {why}.",
            node.pointer,
            received=node.shape[0],
            expected=str(wanted),
            fix=f"units: {wanted}",
        )
    )


def _check_activation(output: Output, node: GraphNode, problems: list[Problem], warn: Warn) -> None:
    activation, loss, target = activation_of(node.layer), output.loss, output.target
    name = type(loss).__name__

    def refuse(detail: str, fix: str) -> None:
        problems.append(Problem(detail, node.pointer, received=activation, fix=fix))

    if activation is None:
        return
    if activation in SOFTMAX and node.shape == (1,):
        fix = "activation: sigmoid" if target.labels else "activation: linear"
        refuse(f"{activation} with one unit is always 1.", fix)
    elif activation == "log_softmax" and node.shape == (1,):
        refuse("log_softmax with one unit is always 0.", "activation: linear")
    elif activation in SOFTMAX and target.task == "multilabel":
        detail = f"{activation} makes the labels exclude each other; several labels of {target.name!r} can be true."
        refuse(detail, "activation: sigmoid")
    elif getattr(loss, "from_logits", False):
        if activation in PROBABILITIES:
            refuse(f"{name} with from_logits takes logits; {activation} gives probabilities.", "activation: linear")
        elif activation != "linear":
            warn(f"Logits are unbounded; {activation} bounds them.", node.pointer, "activation: linear")
    elif loss.probabilities and activation not in PROBABILITIES:
        fix = f"activation: {loss.output}, or from_logits: true"
        refuse(f"{name} takes probabilities; {activation} does not give them.", fix)
    elif loss.expects in ("index", "one_hot") and loss.probabilities and activation not in SOFTMAX:
        detail = f"{activation} gives each label a probability of its own, but exactly one label is right."
        warn(detail, node.pointer, "activation: softmax")
    elif loss.output == "tanh" and activation in PROBABILITIES:
        warn(f"{name} expects outputs from -1 to 1; {activation} gives 0 to 1.", node.pointer, "activation: tanh")


def _check_range(output: Output, node: GraphNode, column: ColumnFacts, problems: list[Problem], warn: Warn) -> None:
    activation = activation_of(node.layer) or "linear"
    low, high = RANGES.get(activation, (float("-inf"), float("inf")))
    if isinstance(output.loss, losses.Poisson) and low < 0:
        detail = f"Poisson takes the logarithm of the output; {activation} can be negative."
        fix = "activation: exponential, or softplus"
        problems.append(Problem(detail, node.pointer, received=activation, fix=fix))
    if output.target.standardize or column.min is None or column.max is None:
        return
    if column.min < low or column.max > high:
        outside = f"{column.name!r} ranges from {column.min:g} to {column.max:g}"
        warn(f"{activation} gives {low:g} to {high:g}; {outside}.", node.pointer, "activation: linear")


def resolve_scale(
    output: Output,
    node: GraphNode,
    facts: DatasetFacts,
    pointer: str,
    problems: list[Problem],
    *,
    clip: bool | None,
    by_default: bool,
) -> Target:
    """Return the target with `standardize` and `clip` decided.

    By default, large numbers are standardised if loss and output allow it. With `by_default` (the spec leaves its
    network out), all numeric targets are standardised and predictions clipped. `clip` is the spec's setting for all
    targets.
    """
    target = output.target
    if target.task != "regression" and target.clip:
        detail = "Only the answers of a regression target can be clipped."
        problems.append(Problem(detail, pointer.replace("standardize", "clip"), received=True))
    clip_stated = target.clip if target.clip is not None else clip
    target = target.model_copy(
        update={"clip": target.task == "regression" and (by_default if clip_stated is None else clip_stated)}
    )
    if target.task != "regression":
        if target.standardize:
            problems.append(Problem("Only a regression target can be standardised.", pointer, received=True))
        return target.model_copy(update={"standardize": False})
    possible = isinstance(output.loss, STANDARDIZABLE) and activation_of(node.layer) in (None, "linear")
    if target.standardize and not possible:
        name = type(output.loss).__name__
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
        target = target.model_copy(update={"standardize": possible and (by_default or needs_scaling(column))})
    return target


def needs_scaling(column: ColumnFacts) -> bool:
    """Return whether usual step sizes do not suit a target: it is large, tiny, or far from 0 relative to its spread."""
    mean, std = abs(column.mean or 0.0), column.std or 0.0
    return max(mean, std) > LARGE or 0 < std < SMALL or mean > FAR * std > 0


def serving_activation(target: Target, loss: Loss, layer: Layer) -> str | None:
    """Return the activation applied when serving, which turns logits or scores from -1 to 1 into probabilities.

    `sigmoid` or `softmax`; `halved` for (1 + score) / 2; None if the output is served unchanged.
    """
    activation = activation_of(layer)
    if target.task == "regression" or activation in PROBABILITIES:
        return None
    if getattr(loss, "from_logits", False) or isinstance(loss, losses.CategoricalHinge):
        return "softmax" if target.task == "multiclass" else "sigmoid"
    if isinstance(loss, (losses.Hinge, losses.SquaredHinge)):
        return "halved" if RANGES.get(activation or "") == (-1.0, 1.0) else "sigmoid"
    return None
