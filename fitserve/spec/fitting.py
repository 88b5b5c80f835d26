"""Losses, metrics, callbacks and weights of classes, written out and checked against the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fitserve.errors import Problem
from fitserve.spec.losses import Loss
from fitserve.spec.measures import metrics_of, monitors, watching
from fitserve.spec.metrics import Metric
from fitserve.spec.outputs import Chosen
from fitserve.spec.target import Target
from fitserve.spec.training import Training
from fitserve.validation import nearest, pointer_of


def losses_of(training: Training, targets: Sequence[Target], problems: list[Problem]) -> dict[str, Loss]:
    if training.loss == "auto":
        return {}
    names = [target.name for target in targets]
    if isinstance(training.loss, Loss):
        return dict.fromkeys(names, training.loss)
    problems += _no_targets(training.loss, names, "/training/loss")
    return {name: loss for name, loss in training.loss.items() if loss != "auto"}


def loss_pointer(training: Training, target: Target) -> str:
    return f"/training/loss/{target.name}" if isinstance(training.loss, dict) else "/training/loss"


def smoothed(choice: Chosen, smoothing: float | None, problems: list[Problem]) -> Chosen:
    """The shorthand `training.label_smoothing` as the argument of the loss."""
    if smoothing is None:
        return choice
    given = getattr(choice.loss, "label_smoothing", None)
    name = type(choice.loss).__name__
    if given is None:
        problems.append(
            Problem(
                f"{name} has no label smoothing.",
                "/training/label_smoothing",
                received=smoothing,
                expected="BinaryCrossentropy, CategoricalCrossentropy or their focal forms",
                fix="loss: CategoricalCrossentropy" if choice.target.task == "multiclass" else None,
            )
        )
        return choice
    if given not in (0.0, smoothing):
        detail = f"label_smoothing says {smoothing:g}, the loss says {given:g}."
        problems.append(Problem(detail, "/training/label_smoothing", received=smoothing, fix="Say one of them."))
    return replace(choice, loss=choice.loss.model_copy(update={"label_smoothing": smoothing}))


def training_of(training: Training, chosen: Sequence[Chosen], validation: bool, problems: list[Problem]) -> Training:
    names = [choice.target.name for choice in chosen]
    metrics = _metrics(training, chosen, problems)
    shown = monitors(metrics, validation)
    callbacks = {
        name: watching(callback, shown, validation, f"/training/{name}", problems)
        for name in ("early_stopping", "reduce_lr_on_plateau")
        if (callback := getattr(training, name)) is not None
    }
    problems += _no_targets(training.loss_weights or {}, names, "/training/loss_weights")
    problems += [
        Problem(
            f"There is no epoch {epoch} to keep.",
            "/training/keep_epochs",
            received=epoch,
            expected=f"1 to {training.epochs}",
        )
        for epoch in training.keep_epochs
        if epoch > training.epochs
    ]
    _class_weight(training, chosen, problems)
    return training.model_copy(
        update={
            "loss": {choice.target.name: choice.loss for choice in chosen},
            "loss_weights": {name: (training.loss_weights or {}).get(name, 1.0) for name in names},
            "metrics": metrics,
            "label_smoothing": None,
            "validation_split": None,
            **callbacks,
        }
    )


def _metrics(training: Training, chosen: Sequence[Chosen], problems: list[Problem]) -> dict[str, list[Metric]]:
    names = [choice.target.name for choice in chosen]
    if isinstance(training.metrics, dict):
        problems += _no_targets(training.metrics, names, "/training/metrics")
    found = {}
    for choice in chosen:
        name, said, pointer = choice.target.name, training.metrics, "/training/metrics"
        if isinstance(said, dict):
            said, pointer = said.get(name, "auto"), f"{pointer}/{name}"
        found[name] = metrics_of(said, choice.target, choice.loss, pointer, problems)
    return found


def _class_weight(training: Training, chosen: Sequence[Chosen], problems: list[Problem]) -> None:
    given, pointer = training.class_weight, "/training/class_weight"
    if given is None:
        return
    target = chosen[0].target
    if len(chosen) > 1 or target.task not in ("binary", "multiclass"):
        detail = "Class weights need one target with labels, one of them in each row."
        problems.append(Problem(detail, pointer, fix="sample_weight: a column"))
        return
    labels = target.labels or ()
    for label in given if isinstance(given, dict) else ():
        if label not in labels:
            near = nearest(label, labels)
            problems.append(
                Problem(
                    f"{target.name!r} has no label {label!r}.",
                    f"{pointer}/{label}",
                    received=label,
                    expected=f"one of {', '.join(labels[:50])}",
                    fix=f"Did you mean {near[0]}?" if near else None,
                )
            )


def _no_target(name: str, names: Sequence[str], pointer: str) -> Problem:
    near = nearest(name, names)
    fix = f"Did you mean {near[0]}?" if near else None
    return Problem(
        f"There is no target {name!r}.", pointer, received=name, expected=f"one of {', '.join(names)}", fix=fix
    )


def _no_targets(given: Iterable[str], names: Sequence[str], pointer: str) -> list[Problem]:
    return [_no_target(name, names, pointer + pointer_of([name])) for name in given if name not in names]
