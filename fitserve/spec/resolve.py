"""A spec and a dataset's facts: every default written out, everything checked, the run's cost estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fitserve.errors import BadInput, Problem
from fitserve.settings import Limits
from fitserve.spec import outputs
from fitserve.spec.advice import Warning, advice
from fitserve.spec.estimates import Estimates, SummaryRow, estimate, over_limits, summary
from fitserve.spec.facts import DatasetFacts
from fitserve.spec.features import EncodedInput, Feature, default_feature, encoded_inputs, resolve_feature
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.shaping import Flatten
from fitserve.spec.losses import Loss
from fitserve.spec.measures import metrics_of, monitors, watching
from fitserve.spec.metrics import Metric
from fitserve.spec.network import Node
from fitserve.spec.outputs import Chosen
from fitserve.spec.problems import SpecRefused, nearest
from fitserve.spec.spec import DatasetRef, Spec
from fitserve.spec.split import SplitSpec
from fitserve.spec.target import Target
from fitserve.spec.training import Training
from fitserve.spec.wiring import Wired, Wiring, check_ends, layer_name, moved, wire


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec that can be trained: `spec` has every default written out and resolves to itself."""

    spec: Spec
    summary: list[SummaryRow]
    estimates: Estimates
    warnings: list[Warning]


def resolve(spec: Spec, facts: DatasetFacts, limits: Limits | None = None) -> Resolved:
    """Check a spec against a dataset and write out its defaults. Raises SpecRefused with every problem found."""
    limits = limits or Limits()
    problems: list[Problem] = _at_once(spec, limits)
    _raise(problems)
    problems += _dataset(spec, facts)
    targets = _targets(spec, facts, problems)
    features = _features(spec, targets, facts, problems)
    split = _split(spec, facts, problems)
    _raise(problems)
    inputs = _inputs(features, facts)

    warnings: list[Warning] = []
    wiring = wire(spec.network, inputs, targets)
    _raise(wiring.problems)
    chosen = _outputs(spec, targets, wiring, facts, problems, warnings)
    _raise(problems)
    check_ends(wiring)
    _raise(wiring.problems)

    validation = split.validation > 0 or split.method == "column"
    training = _training(spec.training, chosen, facts, validation, problems)
    rows = summary(wiring)
    held_out = split.validation + split.test if split.method != "column" else 0.2
    estimates = estimate(wiring, rows, training, max(1, round(facts.rows * (1 - held_out))))
    problems += over_limits(estimates, training, limits)
    _raise(problems)
    warnings += advice(wiring, features, split, training, estimates, facts)
    resolved = Spec(
        dataset=DatasetRef(ref=f"{facts.name}@{facts.version}", sha256=facts.sha256),
        target=tuple(choice.target for choice in chosen),
        task=chosen[0].target.task if len(chosen) == 1 else None,
        features=tuple(features),
        split=split,
        network=tuple(_node(node) for node in wiring.nodes.values()),
        training=training,
        model=spec.model,
    )
    return Resolved(resolved, rows, estimates, warnings)


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise SpecRefused.because(problems)


def _at_once(spec: Spec, limits: Limits) -> list[Problem]:
    """Limits that need no shapes, so that a bomb is refused before any work."""
    training = spec.training
    bounds = (
        ("layers", len(spec.network), limits.layers, "/network"),
        ("epochs", training.epochs, limits.epochs, "/training/epochs"),
        ("trials", training.restarts, limits.trials, "/training/restarts"),
    )
    return [
        Problem(
            f"{value}: the limit {name} is {limit}.",
            pointer,
            received=value,
            expected=f"at most {limit}",
            fix=f"Ask for less, or raise FITSERVE_LIMIT_{name.upper()}.",
        )
        for name, value, limit, pointer in bounds
        if value > limit
    ]


def _dataset(spec: Spec, facts: DatasetFacts) -> list[Problem]:
    sha256 = spec.dataset.sha256
    if sha256 is None or sha256 == facts.sha256:
        return []
    return [
        Problem(
            f"{facts.name}@{facts.version} has other content than the spec names.",
            "/dataset/sha256",
            received=sha256,
            expected=facts.sha256,
        )
    ]


def _targets(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> list[Target]:
    targets = list(spec.target)
    if spec.task == "multilabel" and len(targets) > 1 and all(len(target.columns) == 1 for target in targets):
        columns = tuple(target.column for target in targets)
        targets = [Target(name="labels", columns=columns, task="multilabel")]
    elif spec.task is not None and any(target.task not in (None, spec.task) for target in targets):
        binary_as_two = spec.task == "multiclass" or {target.task for target in targets} == {"multiclass"}
        if not binary_as_two:
            problems.append(
                Problem(
                    "A target has another task than the spec.",
                    "/task",
                    received=spec.task,
                    fix="Leave one of them out.",
                )
            )
    alone = len(targets) == 1
    return [
        outputs.inferred(target, spec.task, facts, "/target" if alone else f"/target/{index}", problems)
        for index, target in enumerate(targets)
    ]


def _features(spec: Spec, targets: list[Target], facts: DatasetFacts, problems: list[Problem]) -> list[Feature]:
    taken = {column: "target" for target in targets for column in target.columns}
    weight = spec.training.sample_weight
    if weight is not None:
        _weight_column(weight, taken, facts, problems)
        taken[weight] = "sample_weight"
    if spec.features is None:
        if spec.split.by is not None and spec.split.method in ("group", "column"):
            taken.setdefault(spec.split.by, "split.by")
        found = [default_feature(column) for column in facts.columns if column.name not in taken]
        features = [feature for feature in found if feature is not None]
        if not features:
            problems.append(Problem("No column is left to learn from.", "/features", expected="at least one feature"))
        return features
    if not spec.features:
        problems.append(Problem("A network needs at least one feature.", "/features", received=[]))
    resolved: list[Feature] = []
    for index, feature in enumerate(spec.features):
        pointer = f"/features/{index}"
        if feature.column not in facts.by_name:
            problems.append(_no_column(feature.column, facts, pointer))
        elif feature.column in taken:
            detail = f"{feature.column!r} is the {taken[feature.column]}; it cannot be a feature too."
            problems.append(Problem(detail, pointer, column=feature.column, fix="Leave it out of features."))
        elif any(feature.column == other.column for other in spec.features[:index]):
            problems.append(Problem(f"{feature.column!r} is a feature twice.", pointer, column=feature.column))
        else:
            try:
                resolved.append(resolve_feature(feature, facts.by_name[feature.column], pointer))
            except BadInput as error:
                problems += error.problems or [Problem(error.detail, pointer)]
    return resolved


def _weight_column(name: str, taken: dict[str, str], facts: DatasetFacts, problems: list[Problem]) -> None:
    pointer = "/training/sample_weight"
    column = facts.by_name.get(name)
    if column is None:
        problems.append(_no_column(name, facts, pointer))
    elif name in taken:
        problems.append(Problem(f"{name!r} is the {taken[name]} already.", pointer, column=name))
    elif column.storage not in ("int64", "float64") or (column.min is not None and column.min < 0) or column.missing:
        detail = f"Sample weights are numbers of 0 and more in every row; {name!r} is {column.kind}"
        problems.append(Problem(f"{detail}, from {column.min}, {column.missing} missing.", pointer, column=name))


def _no_column(name: str, facts: DatasetFacts, pointer: str) -> Problem:
    near = nearest(name, facts.by_name)
    return Problem(
        f"The dataset {facts.name}@{facts.version} has no column {name!r}.",
        pointer,
        column=name,
        received=name,
        expected=f"one of {', '.join(list(facts.by_name)[:50])}",
        fix=f"Did you mean {near[0]}?" if near else None,
    )


def _split(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> SplitSpec:
    split, share = spec.split, spec.training.validation_split
    if split.by is not None and split.by not in facts.by_name:
        problems.append(_no_column(split.by, facts, "/split/by"))
    if share is None:
        return split
    if share + split.test >= 1:
        detail = f"validation_split {share:g} and test {split.test:g} leave no rows for training."
        problems.append(Problem(detail, "/training/validation_split", received=share))
        return split
    if "validation" in split.model_fields_set and split.validation != share:
        detail = f"validation_split says {share:g}, split.validation says {split.validation:g}."
        problems.append(Problem(detail, "/training/validation_split", received=share, fix="Say one of them."))
        return split
    return SplitSpec.model_validate({**split.model_dump(), "validation": share})


def _inputs(features: Sequence[Feature], facts: DatasetFacts) -> Sequence[EncodedInput]:
    try:
        return encoded_inputs(features, facts)
    except BadInput as error:
        raise SpecRefused.because(
            error.problems or [Problem(error.detail, "/features", received=error.received, fix=error.fix)]
        ) from None


def _outputs(
    spec: Spec,
    targets: list[Target],
    wiring: Wiring,
    facts: DatasetFacts,
    problems: list[Problem],
    warnings: list[Warning],
) -> list[Chosen]:
    """Losses and output layers; the automatic ones are added to the wiring."""
    losses = _losses(spec.training, targets, problems)
    said = wiring.outputs()
    last = wiring.last()
    chosen: list[Chosen] = []
    for index, target in enumerate(targets):
        one_hot = outputs.metrics_want_one_hot(spec.training.metrics, target.name)
        choice = outputs.choose(
            target, losses.get(target.name), said.get(target.name), one_hot, spec.training.label_smoothing
        )
        choice = _smoothed(choice, spec.training.label_smoothing, problems)
        output = said.get(target.name) or _add_output(wiring, choice, last, problems)
        if output is None:
            break
        pointer = "/target" if len(targets) == 1 else f"/target/{index}"
        outputs.check(choice, output, facts, _loss_pointer(spec.training, target), problems, _warner(warnings))
        standardized = outputs.standardized(choice, output, facts, f"{pointer}/standardize", problems)
        chosen.append(replace(choice, target=standardized))
    return chosen


def _warner(warnings: list[Warning]) -> Any:
    def warn(detail: str, pointer: str, fix: str | None = None) -> None:
        warnings.append(Warning(code="output-activation", detail=detail, pointer=pointer, fix=fix))

    return warn


def _loss_pointer(training: Training, target: Target) -> str:
    return f"/training/loss/{target.name}" if isinstance(training.loss, dict) else "/training/loss"


def _losses(training: Training, targets: Sequence[Target], problems: list[Problem]) -> dict[str, Loss]:
    if training.loss == "auto":
        return {}
    names = [target.name for target in targets]
    if isinstance(training.loss, Loss):
        return dict.fromkeys(names, training.loss)
    for name in training.loss:
        if name not in names:
            problems.append(_no_target(name, names, f"/training/loss/{name}"))
    return {name: loss for name, loss in training.loss.items() if loss != "auto"}


def _no_target(name: str, names: Sequence[str], pointer: str) -> Problem:
    near = nearest(name, names)
    fix = f"Did you mean {near[0]}?" if near else None
    return Problem(
        f"There is no target {name!r}.", pointer, received=name, expected=f"one of {', '.join(names)}", fix=fix
    )


def _smoothed(choice: Chosen, smoothing: float | None, problems: list[Problem]) -> Chosen:
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


def _add_output(wiring: Wiring, choice: Chosen, last: Wired | None, problems: list[Problem]) -> Wired | None:
    if last is None or choice.layer is None:
        problems.append(
            Problem(
                "A network with several inputs needs a layer that joins them.",
                "/network",
                fix="Concatenate, with inputs: the names of what it joins",
            )
        )
        return None
    if len(last.shape) != 1:
        flat = wiring.free_name("flatten")
        wiring.add(Wired(flat, Flatten(), (last.name,), Flatten().output_shape([last.shape]), None, "/network"))
        last = wiring.nodes[flat]
    name = wiring.free_name(layer_name(choice.target.name))
    shape = choice.layer.output_shape([last.shape])
    node = moved(Wired(name, choice.layer, (last.name,), shape, None, "/network"), choice.target.name)
    wiring.add(node)
    return node


def _training(
    training: Training, chosen: Sequence[Chosen], facts: DatasetFacts, validation: bool, problems: list[Problem]
) -> Training:
    names = [choice.target.name for choice in chosen]
    metrics = _metrics(training, chosen, problems)
    shown = monitors(metrics, validation)
    callbacks = {
        name: watching(callback, shown, validation, f"/training/{name}", problems)
        for name in ("early_stopping", "reduce_lr_on_plateau")
        if (callback := getattr(training, name)) is not None
    }
    for name in training.loss_weights or {}:
        if name not in names:
            problems.append(_no_target(name, names, f"/training/loss_weights/{name}"))
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
        for name in training.metrics:
            if name not in names:
                problems.append(_no_target(name, names, f"/training/metrics/{name}"))
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


def _node(node: Wired) -> Node:
    if isinstance(node.layer, Input):
        return Node(layer=node.layer, name=node.name)
    return Node(layer=node.layer, name=node.name, inputs=node.inputs, output=node.target)
