"""Which columns a spec means: targets, features, sample weights and the split, checked against the dataset."""

from __future__ import annotations

from collections.abc import Sequence

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.feature import EncodedInput, Feature, default_feature, encoded_inputs, resolve_feature
from fitserve.errors import BadInput, Problem
from fitserve.spec.spec import Spec
from fitserve.spec.split import SplitSpec
from fitserve.spec.target import Target
from fitserve.spec.tasks import inferred
from fitserve.validation import MAX_PROBLEMS, SpecRefused, nearest


def check_dataset(spec: Spec, facts: DatasetFacts) -> list[Problem]:
    here, sha256 = f"{facts.name}@{facts.version}", spec.dataset.sha256
    if "@" in spec.dataset.ref and spec.dataset.ref != here:
        detail = f"The spec names {spec.dataset.ref}; this is {here}."
        return [Problem(detail, "/dataset", received=spec.dataset.ref, expected=here)]
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


def targets_of(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> list[Target]:
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
        inferred(target, spec.task, facts, "/target" if alone else f"/target/{index}", problems)
        for index, target in enumerate(targets)
    ]


def features_of(spec: Spec, targets: list[Target], facts: DatasetFacts, problems: list[Problem]) -> list[Feature]:
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
        if len(problems) > MAX_PROBLEMS:
            break
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


def split_of(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> SplitSpec:
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


def inputs_of(features: Sequence[Feature], facts: DatasetFacts) -> Sequence[EncodedInput]:
    try:
        return encoded_inputs(features, facts)
    except BadInput as error:
        raise SpecRefused.because(
            error.problems or [Problem(error.detail, "/features", received=error.received, fix=error.fix)]
        ) from None
