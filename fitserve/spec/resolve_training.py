"""Losses, metrics, callbacks and class weights of a spec, written out and checked against the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fitserve.errors import Problem, json_pointer
from fitserve.spec import metrics as kinds
from fitserve.spec.graph import free_name, snake_case
from fitserve.spec.losses import Hinge, Loss, Quantile, SquaredHinge
from fitserve.spec.metrics import METRICS, Metric
from fitserve.spec.output import Output
from fitserve.spec.spec import Spec
from fitserve.spec.target import Target
from fitserve.spec.training import EarlyStopping, ReduceLROnPlateau, Training
from fitserve.validation import did_you_mean, unknown_name

# Elementwise metrics also compare one target with several quantiles.
_ELEMENTWISE = (kinds.MeanSquaredError, kinds.RootMeanSquaredError, kinds.MeanAbsoluteError)
# Metrics of labels that do not need probabilities.
_ANY_SCORE: tuple[type[Metric], ...] = (
    kinds.CategoricalAccuracy,
    kinds.SparseCategoricalAccuracy,
    kinds.TopKCategoricalAccuracy,
    kinds.SparseTopKCategoricalAccuracy,
    kinds.Hinge,
    kinds.SquaredHinge,
    kinds.CategoricalHinge,
)
# Keras's default metric names that are not the class name in snake_case.
_KERAS_NAMES = {
    "LogCoshError": "logcosh",
    "KLDivergence": "kl_divergence",
    "FBetaScore": "fbeta_score",
    "R2Score": "r2_score",
    "F1Score": "f1_score",
    "BinaryIoU": "binary_io_u",
    "AUC": "auc",
}


def losses_by_target(training: Training, targets: Sequence[Target], problems: list[Problem]) -> dict[str, Loss]:
    """Return the losses that the spec names, by target."""
    if training.loss == "auto":
        return {}
    names = [target.name for target in targets]
    if isinstance(training.loss, Loss):
        return dict.fromkeys(names, training.loss)
    problems += _unknown_targets(training.loss, names, "/training/loss")
    return {name: loss for name, loss in training.loss.items() if loss != "auto"}


def loss_pointer(training: Training, target: Target) -> str:
    """Return the JSON pointer of a target's loss in the spec."""
    return "/training/loss" + json_pointer([target.name]) if isinstance(training.loss, dict) else "/training/loss"


def apply_label_smoothing(output: Output, smoothing: float | None, problems: list[Problem]) -> Output:
    """Move the shorthand `training.label_smoothing` into the loss."""
    if smoothing is None:
        return output
    current, pointer = getattr(output.loss, "label_smoothing", None), "/training/label_smoothing"
    if current is None:
        problems.append(
            Problem(
                f"{type(output.loss).__name__} has no label smoothing.",
                pointer,
                received=smoothing,
                expected="BinaryCrossentropy, CategoricalCrossentropy or their focal forms",
                fix="loss: CategoricalCrossentropy" if output.target.task == "multiclass" else None,
            )
        )
        return output
    if current not in (0.0, smoothing):
        detail = f"label_smoothing is {smoothing:g}, but the loss's is {current:g}."
        problems.append(Problem(detail, pointer, received=smoothing, fix="Leave one of them out."))
    return replace(output, loss=output.loss.model_copy(update={"label_smoothing": smoothing}))


def resolve_training(
    training: Training, outputs: Sequence[Output], validation: bool, problems: list[Problem]
) -> Training:
    """Return the training with losses, metrics, monitors and weights written out. `validation`: rows are held out."""
    names = [output.target.name for output in outputs]
    metrics = _resolve_metrics(training, outputs, problems)
    monitors = _monitors(metrics, validation)
    callbacks = {
        name: _resolve_monitor(callback, monitors, validation, f"/training/{name}", problems)
        for name in ("early_stopping", "reduce_lr_on_plateau")
        if (callback := getattr(training, name)) is not None
    }
    weights = training.loss_weights or {}
    problems += _unknown_targets(weights, names, "/training/loss_weights")
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
    problems += [
        Problem(
            f"No epoch comes after epoch {switch.after}.",
            f"/training/switches/{index}/after",
            received=switch.after,
            expected=f"1 to {training.epochs - 1}" if training.epochs > 1 else "no switches in a run of one epoch",
        )
        for index, switch in enumerate(training.switches)
        if switch.after >= training.epochs
    ]
    _check_class_weight(training, outputs, problems)
    return training.model_copy(
        update={
            "loss": {output.target.name: output.loss for output in outputs},
            "loss_weights": {name: weights.get(name, 1.0) for name in names},
            "metrics": metrics,
            "label_smoothing": None,
            "validation_split": None,
            **callbacks,
        }
    )


def check_switches(training: Training, members: int, checks: bool, problems: list[Problem]) -> None:
    """Refuse switches with restarts or `checks`, and those after which stacked members could not stay stacked.

    Members whose optimizer allows it train as one stacked network, and must stay stacked to the end.
    """
    pointer = "/training/switches"
    if training.switches and checks:
        problems.append(Problem("A check has one optimizer.", pointer, fix="Leave switches out, or check."))
    elif training.switches and training.restarts > 1:
        detail = "The optimizer is switched in one network, or in all members of an ensemble."
        problems.append(Problem(detail, pointer, received=f"{training.restarts} restarts", fix="restarts: 1"))
    elif members > 1 and training.optimizer.stacks:
        problems += [
            Problem(
                f"Members that trained as one network up to epoch {switch.after} cannot go on with this optimizer.",
                f"{pointer}/{index}/optimizer",
                received=type(switch.optimizer).__name__,
                expected="one that updates each weight by its own gradient, without clipnorm, global_clipnorm, "
                "use_ema and gradient_accumulation_steps",
                fix="Adam, or ensemble: false",
            )
            for index, switch in enumerate(training.switches)
            if not switch.optimizer.stacks
        ]


def check_stacked(training: Training, one_network: bool, problems: list[Problem]) -> None:
    """Refuse `stacked` unless a single network trains (as a search's trial does), and unknown arguments in it."""
    stacked, pointer = training.stacked, "/training/stacked"
    if stacked is None:
        return
    if training.restarts > 1 or training.switches or training.workers is not None or not one_network:
        detail = "A stack is for one network that trains as a search's trial: without restarts, switches or workers."
        fix = "Leave stacked out, or restarts, switches, workers, folds, ensemble and check."
        problems.append(Problem(detail, pointer, received=list(stacked), fix=fix))
    optimizer = type(training.optimizer)
    if unknown := sorted(set(stacked) - set(optimizer.model_fields)):
        detail = f"{optimizer.__name__} has no argument {unknown[0]}."
        problems.append(Problem(detail, pointer, received=list(stacked), fix="Leave it out of stacked."))


def _check_class_weight(training: Training, outputs: Sequence[Output], problems: list[Problem]) -> None:
    weights, pointer, target = training.class_weight, "/training/class_weight", outputs[0].target
    if weights is None:
        return
    if len(outputs) > 1 or target.task not in ("binary", "multiclass"):
        detail = "Class weights need labels: a single target with one label in each row."
        problems.append(Problem(detail, pointer, fix="sample_weight: a column"))
        return
    labels = target.labels or ()
    problems += [
        unknown_name(f"{target.name!r} has no label {label!r}.", label, labels, pointer + json_pointer([label]))
        for label in (weights if isinstance(weights, dict) else ())
        if label not in labels
    ]


def _unknown_targets(written: Iterable[str], names: Sequence[str], pointer: str) -> list[Problem]:
    return [
        unknown_name(f"There is no target {name!r}.", name, names, pointer + json_pointer([name]))
        for name in written
        if name not in names
    ]


def _resolve_metrics(training: Training, outputs: Sequence[Output], problems: list[Problem]) -> dict[str, list[Metric]]:
    """Return the metrics of each target, named."""
    written, pointer = training.metrics, "/training/metrics"
    by_target = isinstance(written, dict)
    if by_target:
        problems += _unknown_targets(written, [output.target.name for output in outputs], pointer)
    metrics = {}
    for output in outputs:
        name = output.target.name
        own, at = (written.get(name, "auto"), f"{pointer}/{name}") if by_target else (written, pointer)
        metrics[name] = _metrics_of(own, output, at, problems)
    return metrics


def _metrics_of(written: Any, output: Output, pointer: str, problems: list[Problem]) -> list[Metric]:
    metrics: list[Metric] = []
    if written == "auto":
        metrics = _default_metrics(output)
    else:
        for index, metric in enumerate(written):
            at = f"{pointer}/{index}"
            read = metric if isinstance(metric, Metric) else _generic_metric(metric, output.target, output.loss)
            if read is None:
                expected = "MeanAbsoluteError, RootMeanSquaredError, R2Score, ..."
                detail = f"{metric} is a metric for labels; {output.target.name!r} is a number."
                problems.append(Problem(detail, at, received=metric, expected=expected))
            elif (problem := _metric_problem(read, output.target, output.loss, at)) is not None:
                problems.append(problem)
            else:
                metrics.append(read)
    named: list[Metric] = []
    for index, metric in enumerate(metrics):
        taken = {"loss", *(str(other.name) for other in named)}
        if metric.name is not None and metric.name in taken:
            detail = f"Two metrics are called {metric.name!r}."
            problems.append(Problem(detail, f"{pointer}/{index}", received=metric.name))
        cls = type(metric).__name__
        name = metric.name or free_name(_KERAS_NAMES.get(cls, snake_case(cls)), taken)
        named.append(metric.model_copy(update={"name": name}))
    return named


def _gives_logits(loss: Loss) -> bool:
    return bool(getattr(loss, "from_logits", False))


def _default_metrics(output: Output) -> list[Metric]:
    target, loss = output.target, output.loss
    if target.task == "regression":
        return [] if isinstance(loss, Quantile) else [kinds.MeanAbsoluteError(), kinds.RootMeanSquaredError()]
    if target.task == "multiclass":
        return [_label_metric("accuracy", target, False)]
    if isinstance(loss, (Hinge, SquaredHinge)):
        return []
    if _gives_logits(loss):
        return [kinds.AUC(from_logits=True)]
    return [kinds.BinaryAccuracy(name="accuracy"), kinds.AUC()]


def _generic_metric(name: str, target: Target, loss: Loss) -> Metric | None:
    """Return the metric that `accuracy` or `crossentropy` stands for in this task; None for a regression."""
    return None if target.task == "regression" else _label_metric(name, target, _gives_logits(loss))


def _label_metric(name: str, target: Target, logits: bool) -> Metric:
    index = target.encoding == "index"
    if name in ("accuracy", "acc"):
        if target.task != "multiclass":
            return kinds.BinaryAccuracy(name=name)
        return kinds.SparseCategoricalAccuracy(name=name) if index else kinds.CategoricalAccuracy(name=name)
    if target.task != "multiclass":
        return kinds.BinaryCrossentropy(name=name, from_logits=logits)
    crossentropy = kinds.SparseCategoricalCrossentropy if index else kinds.CategoricalCrossentropy
    return crossentropy(name=name, from_logits=logits)


def _metric_problem(metric: Metric, target: Target, loss: Loss, pointer: str) -> Problem | None:
    """Return why a metric does not fit a target and its loss; None where it fits."""
    name, classes = type(metric).__name__, target.units

    def refuse(detail: str, received: object = name, expected: str | None = None, fix: str | None = None) -> Problem:
        return Problem(detail, pointer, received=received, expected=expected, fix=fix)

    if target.encoding not in metric.expects:
        fitting = [other for other, cls in METRICS.classes.items() if target.encoding in cls.expects]
        fix = did_you_mean(name.replace("Sparse", ""), fitting) or did_you_mean("Sparse" + name, fitting)
        if target.encoding == "index" and "one_hot" in metric.expects:
            fix = "loss: CategoricalCrossentropy"
        wanted = " or ".join(metric.expects)
        detail = f"{name} takes targets as {wanted}; {target.name!r} is given as {target.encoding}."
        return refuse(detail, expected=f"one of {', '.join(fitting)}", fix=fix)
    elementwise = isinstance(metric, _ELEMENTWISE)
    if isinstance(loss, Quantile) and loss.units() != 1 and not elementwise:
        detail = f"{name} compares one number with one; the output has {loss.units()} quantiles."
        return refuse(detail, expected="MeanAbsoluteError, MeanSquaredError or RootMeanSquaredError")
    needs_probabilities = target.task != "regression" and not elementwise and not isinstance(metric, _ANY_SCORE)
    if needs_probabilities and _gives_logits(loss) and not getattr(metric, "from_logits", False):
        own, output = "from_logits: true here", "activation: sigmoid or softmax, from_logits: false"
        detail = f"{name} takes probabilities; with from_logits the output is logits."
        return refuse(detail, fix=own if hasattr(metric, "from_logits") else output)
    for argument, most in (("class_id", classes - 1), ("top_k", classes)):
        value = getattr(metric, argument, None)
        if value is not None and value > most:
            return refuse(f"There are {classes} labels.", value, f"{argument} of {name}")
    if (k := getattr(metric, "k", None)) is not None and k > classes:
        return refuse(f"There are {classes} labels; k is {k}.", k, fix=f"k: {classes - 1}")
    if (labels := getattr(metric, "num_labels", None)) is not None and labels != classes:
        return refuse(f"There are {classes} labels.", labels, str(classes))
    return None


def _monitors(metrics: dict[str, list[Metric]], validation: bool) -> dict[str, str]:
    """Return the names of the values that an epoch reports, and whether `min` or `max` of each is better.

    One target reports `loss` and its metrics; several also report `target_loss` and `target_metric`, as Keras names
    them. With held-out rows, each also exists with the prefix `val_`.
    """
    names = {"loss": "min"}
    for target, listed in metrics.items():
        prefix = f"{target}_" if len(metrics) > 1 else ""
        names |= {f"{prefix}loss": "min"} | {f"{prefix}{metric.name}": metric.better for metric in listed}
    return names | ({f"val_{name}": better for name, better in names.items()} if validation else {})


def monitors_of(spec: Spec) -> dict[str, str]:
    """Return the values that an epoch of a resolved spec reports, and whether `min` or `max` of each is better."""
    folds = spec.ensemble is not None and spec.ensemble.validation == "folds"
    validation = folds or spec.split.method == "column" or spec.split.validation > 0
    return _monitors(spec.training.metrics, validation)


def _resolve_monitor(
    callback: EarlyStopping | ReduceLROnPlateau,
    monitors: dict[str, str],
    validation: bool,
    pointer: str,
    problems: list[Problem],
) -> EarlyStopping | ReduceLROnPlateau:
    """Return the callback with monitor and mode written out."""
    monitor = callback.monitor
    if "monitor" not in callback.model_fields_set and not validation:
        monitor = "loss"
    if monitor not in monitors:
        nothing_held_out = monitor.startswith("val_") and not validation
        detail = f"No epoch reports {monitor!r}{': no rows are held out' if nothing_held_out else ''}."
        problem = unknown_name(detail, monitor, monitors, f"{pointer}/monitor")
        problems.append(replace(problem, fix="split: {validation: 0.2}") if nothing_held_out else problem)
        return callback
    mode = monitors[monitor] if callback.mode == "auto" else callback.mode
    return type(callback).model_validate({**callback.model_dump(), "monitor": monitor, "mode": mode})
