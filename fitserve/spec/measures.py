"""Metrics and monitors: chosen where they are left out, checked against the targets, named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitserve.errors import Problem
from fitserve.spec import metrics as kinds
from fitserve.spec.callbacks import EarlyStopping, ReduceLROnPlateau
from fitserve.spec.losses import Hinge, Loss, Quantile, SquaredHinge
from fitserve.spec.metrics import METRICS, Metric
from fitserve.spec.target import Target
from fitserve.spec.wiring import snake_case
from fitserve.validation import nearest

# Elementwise: right for one target against several quantiles too.
_ELEMENTWISE = (kinds.MeanSquaredError, kinds.RootMeanSquaredError, kinds.MeanAbsoluteError)
# Right whatever numbers the output says: the others need probabilities.
_ANY_SCORE = (kinds.CategoricalAccuracy, kinds.SparseCategoricalAccuracy, kinds.TopKCategoricalAccuracy)
_ANY_SCORE += (kinds.SparseTopKCategoricalAccuracy, kinds.Hinge, kinds.SquaredHinge, kinds.CategoricalHinge)  # type: ignore[assignment]
# Keras's own default names, where they are not the class's in snake_case.
_KERAS_NAMES = {"LogCoshError": "logcosh", "KLDivergence": "kl_divergence", "FBetaScore": "fbeta_score"}
_KERAS_NAMES |= {"R2Score": "r2_score", "F1Score": "f1_score", "BinaryIoU": "binary_io_u", "AUC": "auc"}


def metrics_of(said: Any, target: Target, loss: Loss, pointer: str, problems: list[Problem]) -> list[Metric]:
    """The metrics of one target, named. `said` is a list, or "auto"."""
    scores = _scores(loss)
    if said == "auto":
        chosen = _default(target, loss, scores)
    else:
        chosen = []
        for index, metric in enumerate(said):
            at = f"{pointer}/{index}"
            found = metric if isinstance(metric, Metric) else _generic(metric, target, scores, at, problems)
            if found is not None and _fits(found, target, loss, scores, at, problems):
                chosen.append(found)
    named: list[Metric] = []
    for index, metric in enumerate(chosen):
        taken = {other.name for other in named} | {"loss"}
        if metric.name is not None and metric.name in taken:
            problems.append(
                Problem(f"Two metrics are called {metric.name!r}.", f"{pointer}/{index}", received=metric.name)
            )
        named.append(metric if metric.name else metric.model_copy(update={"name": _free(metric, taken)}))
    return named


def _scores(loss: Loss) -> str:
    """What an output says: `probabilities`, `logits` or other `numbers`."""
    if getattr(loss, "from_logits", False):
        return "logits"
    return "numbers" if isinstance(loss, (Hinge, SquaredHinge)) or not loss.probabilities else "probabilities"


def _default(target: Target, loss: Loss, scores: str) -> list[Metric]:
    if target.task == "regression":
        if isinstance(loss, Quantile):
            return []
        return [kinds.MeanAbsoluteError(), kinds.RootMeanSquaredError()]
    if target.task == "multiclass":
        accuracy = kinds.SparseCategoricalAccuracy if target.encoding == "index" else kinds.CategoricalAccuracy
        return [accuracy(name="accuracy")]
    if isinstance(loss, (Hinge, SquaredHinge)):
        return []
    if scores == "logits":
        return [kinds.AUC(from_logits=True)]
    return [kinds.BinaryAccuracy(name="accuracy"), kinds.AUC()]


def _generic(name: str, target: Target, scores: str, pointer: str, problems: list[Problem]) -> Metric | None:
    logits = scores == "logits"
    if name in ("accuracy", "acc"):
        if target.task in ("binary", "multilabel"):
            return kinds.BinaryAccuracy(name=name)
        if target.task == "multiclass":
            kind = kinds.SparseCategoricalAccuracy if target.encoding == "index" else kinds.CategoricalAccuracy
            return kind(name=name)
    elif target.task in ("binary", "multilabel"):
        return kinds.BinaryCrossentropy(name=name, from_logits=logits)
    elif target.task == "multiclass":
        crossed = kinds.SparseCategoricalCrossentropy if target.encoding == "index" else kinds.CategoricalCrossentropy
        return crossed(name=name, from_logits=logits)
    problems.append(
        Problem(
            f"{name} is of labels; {target.name!r} is a number.",
            pointer,
            received=name,
            expected="MeanAbsoluteError, RootMeanSquaredError, R2Score, ...",
        )
    )
    return None


def _fits(metric: Metric, target: Target, loss: Loss, scores: str, pointer: str, problems: list[Problem]) -> bool:
    name = type(metric).__name__
    if target.encoding not in metric.expects:
        fitting = [n for n, cls in METRICS.classes.items() if target.encoding in cls.expects]
        near = nearest(name.replace("Sparse", ""), fitting) or nearest("Sparse" + name, fitting)
        wanted = " or ".join(metric.expects)
        fix = f"Did you mean {near[0]}?" if near else None
        if target.encoding == "index" and "one_hot" in metric.expects:
            fix = "loss: CategoricalCrossentropy"
        problems.append(
            Problem(
                f"{name} takes targets as {wanted}; {target.name!r} is given as {target.encoding}.",
                pointer,
                received=name,
                expected=f"one of {', '.join(fitting)}",
                fix=fix,
            )
        )
        return False
    if isinstance(loss, Quantile) and (loss.units() != 1) and not isinstance(metric, _ELEMENTWISE):
        problems.append(
            Problem(
                f"{name} compares one number with one; the output has {loss.units()} quantiles.",
                pointer,
                received=name,
                expected="MeanAbsoluteError, MeanSquaredError or RootMeanSquaredError",
            )
        )
        return False
    logical = target.task != "regression" and not isinstance(metric, (*_ANY_SCORE, *_ELEMENTWISE))
    if logical and scores == "logits" and not getattr(metric, "from_logits", False):
        problems.append(
            Problem(
                f"{name} takes probabilities; with from_logits the output says logits.",
                pointer,
                received=name,
                fix="from_logits: true here"
                if hasattr(metric, "from_logits")
                else "activation: sigmoid or softmax, from_logits: false",
            )
        )
        return False
    classes = target.units
    for argument in ("class_id", "top_k"):
        value = getattr(metric, argument, None)
        if value is not None and value + (argument == "class_id") > classes:
            problems.append(
                Problem(f"There are {classes} labels.", pointer, received=value, expected=f"{argument} of {name}")
            )
            return False
    k = getattr(metric, "k", None)
    if k is not None and k > classes:
        problems.append(Problem(f"There are {classes} labels; k is {k}.", pointer, received=k, fix=f"k: {classes - 1}"))
        return False
    labels = getattr(metric, "num_labels", None)
    if labels is not None and labels != classes:
        problems.append(Problem(f"There are {classes} labels.", pointer, received=labels, expected=str(classes)))
        return False
    return True


def _free(metric: Metric, taken: set[str | None]) -> str:
    cls = type(metric).__name__
    wanted = _KERAS_NAMES.get(cls, snake_case(cls))
    number, name = 0, wanted
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def monitors(metrics: dict[str, list[Metric]], validation: bool) -> dict[str, str]:
    """What an epoch shows, and whether less or more of it is better.

    With one target `loss` and its metrics' names; with several also `target_loss` and `target_metric`, as Keras
    writes them. With rows held out each once more with `val_` before it.
    """
    names = {"loss": "min"}
    for target, listed in metrics.items():
        prefix = f"{target}_" if len(metrics) > 1 else ""
        if prefix:
            names[f"{prefix}loss"] = "min"
        names |= {f"{prefix}{metric.name}": metric.better for metric in listed}
    return names | ({f"val_{name}": better for name, better in names.items()} if validation else {})


def watching(
    callback: EarlyStopping | ReduceLROnPlateau,
    names: dict[str, str],
    validation: bool,
    pointer: str,
    problems: list[Problem],
) -> EarlyStopping | ReduceLROnPlateau:
    """The callback with monitor and mode written out."""
    monitor = callback.monitor
    if "monitor" not in callback.model_fields_set and not validation:
        monitor = "loss"
    if monitor not in names:
        near = nearest(monitor, names)
        held_out = monitor.startswith("val_") and not validation
        problems.append(
            Problem(
                f"No epoch shows {monitor!r}{': no rows are held out' if held_out else ''}.",
                f"{pointer}/monitor",
                received=monitor,
                expected=f"one of {', '.join(names)}",
                fix="split: {validation: 0.2}" if held_out else f"Did you mean {near[0]}?" if near else None,
            )
        )
        return callback
    mode = names[monitor] if callback.mode == "auto" else callback.mode
    return type(callback).model_validate({**callback.model_dump(), "monitor": monitor, "mode": mode})


def better_of(name: str, metrics: Sequence[Metric]) -> str:
    """Whether more or less of a metric is better: `max` or `min`."""
    return next((metric.better for metric in metrics if metric.name == name), "min")
