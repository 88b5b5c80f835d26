"""What task a target is, and its labels: inferred from the column's facts, or checked against them."""

from __future__ import annotations

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.target import Target, Task
from fitserve.validation import nearest


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
