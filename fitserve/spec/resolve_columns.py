"""The columns that a spec uses: their names and patterns, features with encodings, and rows that can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import BadInput, Problem
from fitserve.spec import default_network
from fitserve.spec.assessment import Advice
from fitserve.spec.column_patterns import PlacedFeature, expand
from fitserve.spec.feature import (
    PLAIN_DEFAULTS,
    EncodedInput,
    Feature,
    default_features,
    defaults_for,
    encoded_inputs,
    resolve_features,
)
from fitserve.spec.graph import free_name
from fitserve.spec.spec import MAX_PROBLEMS, Spec, SpecRefused
from fitserve.spec.target import Target, unknown_column
from fitserve.spec.usable_rows import FindRows, UsedColumn, left_out, refuse, untrainable, unusable_columns


def with_stored_names(spec: Spec, facts: DatasetFacts) -> Spec:
    """Rename columns as the dataset stores them: headers without surrounding blanks."""

    def stored(name: str) -> str:
        return name if name in facts.by_name or name.strip() not in facts.by_name else name.strip()

    targets = tuple(
        one.model_copy(update={"columns": tuple(map(stored, one.columns)), "name": stored(one.name)})
        for one in spec.target
    )
    features = spec.features and tuple(one.model_copy(update={"column": stored(one.column)}) for one in spec.features)
    split = spec.split if spec.split.by is None else spec.split.model_copy(update={"by": stored(spec.split.by)})
    weight = spec.training.sample_weight
    training = spec.training.model_copy(update={"sample_weight": stored(weight)}) if weight else spec.training
    by = None if spec.coverage_by is None else stored(spec.coverage_by)
    update = {"target": targets, "features": features, "split": split, "training": training, "coverage_by": by}
    return spec.model_copy(update={**update, "protected": tuple(map(stored, spec.protected))})


def with_columns(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> tuple[Spec, list[PlacedFeature]]:
    """Return the spec with patterns replaced by a feature per column, and the pointer that names each feature."""
    if spec.features is None:
        return spec, []
    taken = {column for target in spec.target for column in target.columns}
    if spec.training.sample_weight is not None:
        taken.add(spec.training.sample_weight)
    if spec.split.method in ("group", "column") and spec.split.by is not None:
        taken.add(spec.split.by)
    placed = expand(spec.features, facts, frozenset(taken), problems)
    SpecRefused.raise_for(problems)
    return spec.model_copy(update={"features": tuple(one.feature for one in placed)}), placed


def resolve_all_features(
    spec: Spec,
    placed: Sequence[PlacedFeature],
    targets: list[Target],
    facts: DatasetFacts,
    problems: list[Problem],
    pieces: int,
) -> list[Feature]:
    used = {column: "target" for target in targets for column in target.columns}
    if (weight := spec.training.sample_weight) is not None:
        _check_weight_column(weight, used, facts, problems)
        used[weight] = "sample_weight"
    if spec.features is None and spec.split.by is not None and spec.split.method in ("group", "column"):
        used.setdefault(spec.split.by, "split.by")
    rest = [column for column in facts.columns if column.name not in used]
    defaults = PLAIN_DEFAULTS
    if default_network.leaves_network_out(spec):
        own = defaults_for(spec.features, rest)
        defaults = replace(own, pieces=pieces, unbounded=default_network.adds_linear_part(targets))
    if spec.features is None:
        features = [feature for column in rest for feature in default_features(column, defaults)]
        if not features:
            problems.append(_nothing_left(facts, used))
        return features
    if not spec.features:
        problems.append(Problem("A network needs at least one feature.", "/features", received=[]))
    resolved: list[Feature] = []
    by_column: dict[str, list[Feature]] = {}
    for one in placed:
        feature = one.feature
        if len(problems) > MAX_PROBLEMS:
            break
        pointer, column = f"/features/{one.place}", feature.column
        if column not in facts.by_name:
            problems.append(unknown_column(column, facts, pointer))
        elif column in used:
            detail = f"{column!r} is the {used[column]}; it cannot be a feature too."
            problems.append(Problem(detail, pointer, column=column, fix="Leave it out of features."))
        else:
            try:
                added = resolve_features(feature, facts.by_name[column], pointer, defaults)
            except BadInput as error:
                problems += error.problems or [Problem(error.detail, pointer)]
                continue
            for encoded in added:
                if encoded in by_column.setdefault(column, []):
                    detail = f"{column!r} is a feature twice, encoded alike."
                    fix = "Leave one of them out, or choose another encoding."
                    problems.append(Problem(detail, pointer, column=column, fix=fix))
                by_column[column].append(encoded)
                resolved.append(encoded)
    return resolved


def _nothing_left(facts: DatasetFacts, used: dict[str, str]) -> Problem:
    """Return the problem of a table without features: each column, and why it was excluded."""
    reasons = [
        f"{column.name!r} is the {used[column.name]}"
        if column.name in used
        else f"{column.name!r} has no value"
        if column.rows == column.missing
        else f"{column.name!r} is {column.kind} ({column.evidence or 'as its kind says'})"
        for column in facts.columns
    ]
    ignored = next((column.name for column in facts.columns if column.name not in used), None)
    listed = "; ".join(reasons[:20]) + (f"; and {len(reasons) - 20} more" if len(reasons) > 20 else "")
    return Problem(
        f"No column is left to learn from: {listed}.",
        "/features",
        expected="at least one feature",
        fix=f"Name the features, or correct a kind: PATCH kinds, such as {ignored}: categorical." if ignored else None,
    )


def with_free_inputs(
    spec: Spec, features: list[Feature], targets: list[Target], problems: list[Problem]
) -> list[Feature]:
    """Rename network inputs whose name a target has; refuse a clash with names that the spec itself states."""
    outputs = {target.name for target in targets}
    taken = {str(feature.input) for feature in features}
    if not outputs & taken:
        return features
    inputs_by_column = {feature.column: feature.input for feature in spec.features or ()}
    for index, feature in enumerate(spec.features or ()):
        if feature.input in outputs:
            detail = f"The network input {feature.input!r} has the name of a target."
            problems.append(
                Problem(detail, f"/features/{index}/input", received=feature.input, expected="another name")
            )
    renamed = {name: free_name(name, outputs | (taken - {name})) for name in outputs & taken}
    return [
        feature
        if inputs_by_column.get(feature.column)
        else feature.model_copy(update={"input": renamed.get(str(feature.input), feature.input)})
        for feature in features
    ]


def _check_weight_column(name: str, used: dict[str, str], facts: DatasetFacts, problems: list[Problem]) -> None:
    pointer = "/training/sample_weight"
    column = facts.by_name.get(name)
    if column is None:
        problems.append(unknown_column(name, facts, pointer))
    elif name in used:
        problems.append(Problem(f"{name!r} is the {used[name]} already.", pointer, column=name))
    elif column.storage not in ("int64", "float64") or (column.min is not None and column.min < 0) or column.missing:
        detail = f"Sample weights are numbers of 0 and more in every row; {name!r} is {column.kind}"
        problems.append(Problem(f"{detail}, from {column.min}, {column.missing} missing.", pointer, column=name))


def inputs_of(features: Sequence[Feature], facts: DatasetFacts) -> Sequence[EncodedInput]:
    try:
        return encoded_inputs(features, facts)
    except BadInput as error:
        own = Problem(error.detail, "/features", received=error.received, fix=error.fix)
        raise SpecRefused.because(error.problems or [own]) from None


def used_columns(
    spec: Spec, targets: Sequence[Target], features: Sequence[Feature], facts: DatasetFacts
) -> list[UsedColumn]:
    """Return the columns of targets, features and sample weights, with the places that name them."""
    pointers = ["/target"] if len(targets) == 1 else [f"/target/{index}" for index in range(len(targets))]
    used = [
        UsedColumn(facts.by_name[column], "target", pointer)
        for target, pointer in zip(targets, pointers, strict=True)
        for column in target.columns
    ]
    named = {feature.column: f"/features/{index}" for index, feature in enumerate(spec.features or ())}
    used += [UsedColumn(facts.by_name[one.column], "feature", named.get(one.column, "/features")) for one in features]
    if (weight := spec.training.sample_weight) is not None:
        used.append(UsedColumn(facts.by_name[weight], "sample weight", "/training/sample_weight"))
    return used


def check_usable_rows(
    spec: Spec,
    targets: Sequence[Target],
    features: Sequence[Feature],
    facts: DatasetFacts,
    find_rows: FindRows | None,
    problems: list[Problem],
    warnings: list[Advice],
) -> None:
    used = used_columns(spec, targets, features, facts)
    # Two rows are enough if the spec sets the epochs; early stopping would hold one of them out.
    least = 2 if "epochs" in spec.training.model_fields_set and not default_network.leaves_network_out(spec) else 3
    problems += untrainable(used, facts, least)
    for column in unusable_columns(used):
        if spec.rows_without_target == "refuse" or column.unusable >= facts.rows:
            problems.append(refuse(column, facts, find_rows))
        else:
            detail, pointer = left_out(column, facts, find_rows), "/rows_without_target"
            warnings.append(Advice(code="rows-left-out", detail=detail, pointer=pointer, fix="Upload them filled in."))
