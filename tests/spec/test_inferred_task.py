"""The inferred task of a numeric target has a reason; contradictions are refused with `task` as the fix."""

from __future__ import annotations

from typing import Any

import pytest

from fitserve.dataset_facts import ColumnFacts, DatasetFacts, Kind, Storage
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.spec import SpecRefused, parse

ROWS = 120


def facts(labels: tuple[str, ...], kind: Kind = "numeric", storage: Storage = "int64") -> DatasetFacts:
    numbers = [float(label) for label in labels]
    target = ColumnFacts(
        name="y",
        kind=kind,
        storage=storage,
        rows=ROWS,
        distinct=len(labels),
        labels=labels,
        label_counts=(ROWS // len(labels),) * len(labels),
        min=min(numbers),
        max=max(numbers),
        mean=sum(numbers) / len(numbers),
        std=1.0,
    )
    feature = ColumnFacts(
        name="x", kind="numeric", storage="float64", rows=ROWS, distinct=ROWS, min=0, max=1, mean=0, std=1
    )
    return DatasetFacts(name="table", version=1, sha256="0" * 64, rows=ROWS, columns=(feature, target))


def resolved(labels: tuple[str, ...], kind: Kind = "numeric", **spec: Any) -> Resolved:
    return resolve(parse({"dataset": "table", "target": "y", **spec}), facts(labels, kind))


@pytest.mark.parametrize(
    ("labels", "kind", "task", "other"),
    [
        (("1", "2"), "numeric", "binary", "regression"),
        (("-1", "1"), "numeric", "binary", "regression"),
        (("5", "10"), "numeric", "binary", "regression"),
        (("0.5", "1.5"), "numeric", "binary", "regression"),
        (("10", "20", "30"), "numeric", "multiclass", "regression"),
        (("0", "1", "2"), "numeric", "multiclass", "regression"),
        (("1", "2", "3", "4", "5"), "categorical", "multiclass", "regression"),
        (("3", "4", "5", "6", "7", "8"), "numeric", "regression", "multiclass"),
    ],
)
def test_the_task_is_said_with_its_reason(labels: tuple[str, ...], kind: Kind, task: str, other: str) -> None:
    found = resolved(labels, kind)
    assert found.spec.task == task
    (said,) = [advice for advice in found.warnings if advice.code == "task-inferred"]
    assert said.fix == f"task: {other}"
    assert labels[0] in said.detail
    again = resolve(found.spec, facts(labels, kind))
    assert again.spec == found.spec
    assert not [advice for advice in again.warnings if advice.code == "task-inferred"]


@pytest.mark.parametrize("labels", [("0", "1"), tuple(str(at) for at in range(40))])
def test_nothing_is_said_where_there_is_no_doubt(labels: tuple[str, ...]) -> None:
    assert not [advice for advice in resolved(labels).warnings if advice.code == "task-inferred"]


CONTRADICTIONS: list[tuple[tuple[str, ...], Kind, dict[str, Any], str]] = [
    (("1", "2"), "numeric", {"training": {"loss": "mse"}}, "task: regression"),
    (("10", "20", "30"), "numeric", {"training": {"loss": {"y": "mae"}}}, "task: regression"),
    (("10", "20", "30"), "numeric", {"training": {"metrics": ["rmse"]}}, "task: regression"),
    (("1", "2", "3", "4"), "categorical", {"training": {"loss": "mse"}}, "task: regression"),
    (("3", "4", "5", "6"), "numeric", {"training": {"loss": "sparse_categorical_crossentropy"}}, "task: multiclass"),
    (("3", "4", "5", "6"), "numeric", {"training": {"metrics": ["SparseCategoricalAccuracy"]}}, "task: multiclass"),
    (
        ("3", "4", "5", "6"),
        "numeric",
        {"network": [{"Dense": {"units": 4, "activation": "softmax"}}]},
        "task: multiclass",
    ),
]


@pytest.mark.parametrize(("labels", "kind", "spec", "fix"), CONTRADICTIONS)
def test_what_contradicts_it_is_refused(labels: tuple[str, ...], kind: Kind, spec: dict[str, Any], fix: str) -> None:
    with pytest.raises(SpecRefused) as caught:
        resolved(labels, kind, **spec)
    assert fix in [problem.fix for problem in caught.value.problems]
    resolved_with_task = resolve(
        parse({"dataset": "table", "target": "y", "task": fix.removeprefix("task: "), **spec}), facts(labels, kind)
    )
    assert resolved_with_task.spec.task == fix.removeprefix("task: ")


def test_a_table_without_features_says_why_each_column_went() -> None:
    table = facts(("1", "2"))
    gone = [
        table.columns[0].model_copy(update={"name": "id", "kind": "ignored", "evidence": "counts the rows"}),
        table.columns[0].model_copy(update={"name": "empty", "missing": ROWS}),
        table.columns[1],
    ]
    with pytest.raises(SpecRefused) as caught:
        resolve(parse({"dataset": "table", "target": "y"}), table.model_copy(update={"columns": tuple(gone)}))
    detail = caught.value.problems[0].detail
    assert "'id' is ignored (counts the rows)" in detail
    assert "'empty' has no value" in detail
    assert "'y' is the target" in detail
