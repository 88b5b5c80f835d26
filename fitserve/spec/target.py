"""Targets: what a network predicts, one output for each. Task and labels follow from the column's facts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.dataset_facts import MAX_LABELS, ColumnFacts, DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.argument_types import Flag
from fitserve.validation import InvalidValue, unknown_name

Task = Literal["binary", "multiclass", "multilabel", "regression"]
TargetEncoding = Literal["binary", "index", "one_hot", "numbers"]
MAX_TARGETS = 100
FEW_ROWS = 5  # least rows of each of three integer values for the values to count as labels
_ZERO_ONE = (("0", "1"), ("0.0", "1.0"))  # labels of a column of 0 and 1


class Target(DataModel):
    """One output: in a spec usually the name of a column; resolved, everything is written out.

    `encoding` is how the trainer receives it: `binary` 0.0 or 1.0, float32 (rows, columns); `index` int32 (rows,);
    `one_hot` float32 (rows, labels); `numbers` float32 (rows, columns). Label i is `labels[i]`; of a binary target
    `labels[1]` is what 1 means. A multi-label target's labels are its columns, and 1 means that the label applies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=1000, description="Name of the output; left out: the column")
    columns: tuple[str, ...] = Field(min_length=1, max_length=1000, description="One column; multilabel has several")
    task: Task | None = Field(None, description="Left out: inferred from the column")
    labels: tuple[str, ...] | None = Field(None, description="Of a classification, in order; left out: all, sorted")
    encoding: TargetEncoding | None = Field(None, description="How the trainer receives it; left out: the loss's")
    standardize: Flag | None = Field(
        None,
        description="Train on (y - mean) / standard deviation, undone in predictions; left out: for large numbers",
    )
    clip: Flag | None = Field(
        None,
        description="Answers stay within the range of the training rows; left out: where the network is left out too",
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "columns": (value,)}
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if "column" in value and "columns" not in value:
            value["columns"] = (value.pop("column"),)
        columns = value.get("columns")
        if isinstance(columns, (list, tuple)) and "name" not in value:
            value["name"] = columns[0] if len(columns) == 1 else "labels"
        if "columns" not in value and "name" in value:
            value["columns"] = (value["name"],)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.columns) > 1 and self.task not in (None, "multilabel"):
            raise ValueError(f"a {self.task} target has one column; several columns are several targets")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("a column is named twice")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is named twice")
        return self

    @property
    def column(self) -> str:
        """The column of a target that is not multi-label."""
        return self.columns[0]

    @property
    def units(self) -> int:
        """Output units of a resolved target: one per label if it has several labels, else one per column."""
        return len(self.labels or ()) if self.task == "multiclass" else len(self.columns)


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) > MAX_TARGETS:
        detail = f"A spec has at most {MAX_TARGETS} targets."
        raise InvalidValue(detail, received=len(value), expected=f"at most {MAX_TARGETS}")
    return value if isinstance(value, (list, tuple)) else [value]


Targets = Annotated[tuple[Target, ...], BeforeValidator(_listed), Field(min_length=1)]


def infer_task(
    target: Target, spec_task: Task | None, facts: DatasetFacts, pointer: str, problems: list[Problem]
) -> Target:
    """Return the target with task and labels, checked against its columns. Appends to `problems`."""
    unknown = [column for column in target.columns if column not in facts.by_name]
    problems += [unknown_column(column, facts, pointer) for column in unknown]
    if unknown:
        return target
    task = target.task or (spec_task if spec_task != "multilabel" else None)
    if task is None and (len(target.columns) > 1 or spec_task == "multilabel"):
        task = "multilabel"
    task = task or _task_of(facts.by_name[target.column])
    if task is None:
        problems.append(
            Problem(
                f"The task of {target.column!r} cannot be inferred from a {facts.by_name[target.column].kind} column.",
                pointer,
                column=target.column,
                expected="task: binary, multiclass or regression",
                fix="Set the task, or choose another column.",
            )
        )
        return target
    if task == "multilabel":
        return _multilabel(target, facts, pointer, problems)
    return _single_column(target, task, facts.by_name[target.column], pointer, problems)


def unknown_column(name: str, facts: DatasetFacts, pointer: str) -> Problem:
    """Return the problem of a column that the dataset does not have."""
    detail = f"The dataset {facts.name}@{facts.version} has no column {name!r}."
    return unknown_name(detail, name, facts.by_name, pointer, column=name)


def _task_of(column: ColumnFacts) -> Task | None:
    if column.kind == "boolean" or (column.kind == "numeric" and column.labels in _ZERO_ONE):
        return "binary"
    if column.kind == "numeric" or (column.kind == "ignored" and column.storage in ("int64", "float64")):
        if column.distinct == 2 and column.labels is not None and len(column.labels) == 2:
            return "binary"
        return "multiclass" if column.kind == "numeric" and _are_few(column) else "regression"
    if column.kind in ("categorical", "ignored") and column.storage != "timestamp":
        return "binary" if column.distinct == 2 else "multiclass"
    return None


def _are_few(column: ColumnFacts) -> bool:
    """Return whether a column has three integer values, each in many rows: labels rather than amounts."""
    labels, counts = column.labels or (), column.label_counts or ()
    return len(labels) == 3 and _are_whole(labels) and bool(counts) and min(counts) >= FEW_ROWS


def _are_whole(labels: tuple[str, ...]) -> bool:
    return all(label.lstrip("-").isdecimal() for label in labels)


def is_classification(task: Task | None) -> bool:
    """Return whether a task is a classification."""
    return task in ("binary", "multiclass", "multilabel")


def open_question(column: ColumnFacts) -> str | None:
    """Return why a numeric column's task was inferred as it was; None if there is no doubt."""
    labels = column.labels
    if column.storage not in ("int64", "float64") or labels is None or labels in _ZERO_ONE or len(labels) < 2:
        return None
    listed = f"{labels[0]} to {labels[-1]}"
    if column.kind == "categorical" and len(labels) > 2:
        return f"its {len(labels)} values from {listed} are codes of categories"
    if column.kind not in ("numeric", "ignored"):
        return None
    if len(labels) == 2:
        return f"it has two values, {labels[0]} and {labels[1]}"
    if not _are_whole(labels) or len(labels) > 12 or column.rows < 10 * len(labels):
        return None
    if _are_few(column):
        return f"it has three whole values, {', '.join(labels)}"
    return f"its {len(labels)} values from {listed} are numbers that can be compared"


def _single_column(target: Target, task: Task, column: ColumnFacts, pointer: str, problems: list[Problem]) -> Target:
    def refuse(detail: str, fix: str | None = None) -> Target:
        problems.append(Problem(detail, pointer, column=column.name, fix=fix))
        return target.model_copy(update={"task": task})

    if task == "regression":
        if target.labels is not None:
            return refuse("A regression target has no labels.", "task: multiclass")
        if column.storage not in ("int64", "float64", "bool"):
            return refuse(f"{column.name!r} is not numeric; it cannot be a regression target.", "task: multiclass")
        return target.model_copy(update={"task": task})
    labels = target.labels or column.labels
    if labels is None:
        return refuse(
            f"{column.name!r} has {column.distinct} different values; a target has at most {MAX_LABELS} labels.",
            "task: regression" if column.storage in ("int64", "float64") else "Choose another target.",
        )
    if column.labels is not None and set(labels) != set(column.labels):
        return refuse(
            f"The labels of {column.name!r} are {', '.join(map(repr, column.labels[:20]))}; "
            f"these were given: {', '.join(map(repr, labels[:20]))}.",
            "Leave labels out, or give all of them in the order that you want.",
        )
    if len(labels) < 2:
        return refuse(f"{column.name!r} has only one value: there is nothing to predict.", "Choose another target.")
    if task == "binary" and len(labels) != 2:
        return refuse(f"{column.name!r} has {len(labels)} labels; a binary target has two.", "task: multiclass")
    return target.model_copy(update={"task": task, "labels": tuple(labels), "standardize": target.standardize or False})


def _multilabel(target: Target, facts: DatasetFacts, pointer: str, problems: list[Problem]) -> Target:
    for name in target.columns:
        column = facts.by_name[name]
        if column.kind != "boolean" and column.labels not in (*_ZERO_ONE, ("0",), ("1",)):
            problems.append(
                Problem(
                    f"The columns of a multi-label target are 0 or 1; {name!r} is not.",
                    pointer,
                    column=name,
                    received=column.kind,
                    expected="a boolean column, or one of 0 and 1",
                    fix=f"Make {name} a target of its own.",
                )
            )
    if target.labels is not None and target.labels != target.columns:
        detail = "The labels of a multi-label target are its columns."
        problems.append(Problem(detail, pointer, fix="Leave labels out."))
    return target.model_copy(
        update={"task": "multilabel", "labels": target.columns, "standardize": target.standardize or False}
    )
