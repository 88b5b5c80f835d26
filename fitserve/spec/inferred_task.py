"""The task inferred from the values of a target that states none: the reason for it, and contradictions in the spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fitserve.dataset_facts import ColumnFacts
from fitserve.errors import Problem
from fitserve.spec import losses, metrics
from fitserve.spec.assessment import Advice
from fitserve.spec.component import Component
from fitserve.spec.losses import Loss
from fitserve.spec.spec import Spec
from fitserve.spec.target import Target, is_classification, open_question

_OF_NUMBERS = (
    losses.MeanSquaredError,
    losses.MeanAbsoluteError,
    losses.MeanAbsolutePercentageError,
    losses.MeanSquaredLogarithmicError,
    losses.Huber,
    losses.LogCosh,
    losses.Poisson,
    losses.Quantile,
)
_METRICS_OF_NUMBERS = (
    metrics.MeanSquaredError,
    metrics.RootMeanSquaredError,
    metrics.MeanAbsoluteError,
    metrics.MeanAbsolutePercentageError,
    metrics.MeanSquaredLogarithmicError,
    metrics.LogCoshError,
    metrics.R2Score,
)
_UNBOUNDED = ("linear", "relu", "exponential", "softplus")


def advice(target: Target, column: ColumnFacts, pointer: str) -> Advice | None:
    """Return a notice of how the task of a numeric target was inferred, if a person might choose another."""
    reason = open_question(column)
    if reason is None:
        return None
    other = "regression" if is_classification(target.task) else "multiclass"
    return Advice(
        code="task-inferred",
        detail=f"{column.name!r} is predicted as {target.task}: {reason}.",
        pointer=pointer,
        fix=f"task: {other}",
    )


def contradictions(spec: Spec, target: Target, column: ColumnFacts, pointer: str) -> Iterator[Problem]:
    """Yield the parts of a spec that contradict the inferred task of a numeric target."""
    reason = open_question(column)
    if reason is None:
        return
    classification = is_classification(target.task)
    wanted = "regression" if classification else "multiclass" if column.distinct != 2 else "binary"
    for name, where in _stated_for_other_task(spec, target, classification):
        yield Problem(
            f"{name} goes with {wanted}, but {column.name!r} is predicted as {target.task}: {reason}.",
            where,
            column=column.name,
            received=name,
            expected=f"what goes with {target.task}, or another task",
            fix=f"task: {wanted}",
        )


def _stated_for_other_task(spec: Spec, target: Target, classification: bool) -> Iterator[tuple[str, str]]:
    """Yield losses, metrics and activations that belong to the other task, with their places."""
    loss = spec.training.loss
    where = "/training/loss"
    if isinstance(loss, Mapping):
        loss, where = loss.get(target.name, "auto"), f"/training/loss/{target.name}"
    if isinstance(loss, Loss):
        of_numbers = isinstance(loss, _OF_NUMBERS)
        of_labels = loss.expects in ("index", "one_hot") or loss.probabilities
        if (of_numbers and classification) or (of_labels and not classification):
            yield type(loss).__name__, where
    listed = spec.training.metrics
    where = "/training/metrics"
    if isinstance(listed, Mapping):
        listed, where = listed.get(target.name, []), f"/training/metrics/{target.name}"
    for metric in listed if isinstance(listed, (list, tuple)) else ():
        if isinstance(metric, Component) and classification == isinstance(metric, _METRICS_OF_NUMBERS):
            accepts = getattr(metric, "expects", ())
            if classification or "numbers" not in accepts:
                yield type(metric).__name__, where
    yield from _activation(spec, target, classification)


def _activation(spec: Spec, target: Target, classification: bool) -> Iterator[tuple[str, str]]:
    for index, entry in enumerate(spec.network):
        is_last = index == len(spec.network) - 1 and len(spec.target) == 1
        if entry.output != target.name and not is_last:
            continue
        units, activation = getattr(entry.layer, "units", None), getattr(entry.layer, "activation", None)
        logits = getattr(spec.training.loss, "from_logits", False)
        where = f"/network/{index}"
        if classification and units == 1 and activation in _UNBOUNDED and spec.training.loss == "auto" and not logits:
            if entry.output == target.name:
                yield f"an output with activation {activation}", where
        elif not classification and activation == "softmax" and (units or 0) > 1:
            yield "softmax", where
