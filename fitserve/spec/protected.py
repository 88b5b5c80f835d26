"""Protected columns, whose groups are compared by rates and errors."""

from __future__ import annotations

from collections.abc import Sequence

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.plan import TrainingPlan
from fitserve.spec.spec import Spec
from fitserve.spec.target import Target, unknown_column

MAX_GROUPS = 50  # groups of a column that is not divided into ranges
FEW_NUMBERS = 10  # up to this many distinct numbers, each one is a group


def check_protected(
    spec: Spec, targets: Sequence[Target], plan: TrainingPlan, facts: DatasetFacts, problems: list[Problem]
) -> None:
    """Check that protected columns have groups to compare, and that rows are held out. Appends to `problems`."""
    predicted = {column for target in targets for column in target.columns}
    for index, name in enumerate(spec.protected):
        pointer, column = "/protected" if len(spec.protected) == 1 else f"/protected/{index}", facts.by_name.get(name)
        if column is None:
            problems.append(unknown_column(name, facts, pointer))
        elif name in predicted:
            detail = f"{name!r} is the target; its groups are its labels."
            problems.append(Problem(detail, pointer, column=name, fix="Leave it out of protected."))
        elif name in spec.protected[:index]:
            problems.append(Problem(f"{name!r} is protected twice.", pointer, column=name, fix="Keep one of them."))
        elif (groups := column.distinct + (column.missing > 0)) < 2:
            detail = f"{name!r} has one value in all rows: there are no groups to compare."
            problems.append(Problem(detail, pointer, column=name, received=groups, expected="2 groups or more"))
        elif not has_ranges(column) and groups > MAX_GROUPS:
            detail = f"{name!r} has {groups} values; groups of so few rows show nothing."
            fix = "Upload a column with broader groups."
            expected = f"at most {MAX_GROUPS} values, or numbers"
            problems.append(Problem(detail, pointer, column=name, received=groups, expected=expected, fix=fix))
    if spec.protected and not plan.holds_out and plan.split.test == 0:
        detail = "Groups are compared on rows that training does not see; the split holds none out."
        fix = "split: {test: 0.1}, or ensemble: folds"
        problems.append(Problem(detail, "/protected", received=list(spec.protected), fix=fix))


def has_ranges(column: ColumnFacts) -> bool:
    """Return whether a column's groups are ranges of its numbers or times."""
    return column.storage in ("int64", "float64", "timestamp") and column.distinct > (
        MAX_GROUPS if column.kind == "categorical" else FEW_NUMBERS
    )
