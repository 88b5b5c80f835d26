"""Tables on which no network can be trained are refused by name before anything is queued; others are not."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse
from tests.trainer.requests import facts_of

NETWORK: list[Any] = [{"Dense": 4}, "BatchNormalization", {"Activation": "relu"}]
EPOCHS = {"network": NETWORK, "training": {"epochs": 2}}


def table(rows: int, **more: list[Any]) -> pa.Table:
    return pa.table({"x": [at / 7 for at in range(rows)], "y": ["ab"[at % 2] for at in range(rows)], **more})


def refused(data: pa.Table, **spec: Any) -> tuple[str, str]:
    """Return the pointer and the sentence of the first problem."""
    with pytest.raises(SpecRefused) as error:
        resolve(parse({"dataset": "data", "target": "y", **spec}), facts_of(data))
    problem = error.value.problems[0]
    return str(problem.pointer), problem.detail


CASES: dict[str, tuple[pa.Table, dict[str, Any], str, str]] = {
    "two rows": (table(2), {}, "/dataset", "The table has 2 rows"),
    "two rows of a target": (
        pa.table({"x": [1.0, 2.0, 3.0, 4.0], "y": [None, 1.5, None, 2.5]}),
        {"rows_without_target": "leave_out"},
        "/dataset",
        "The table has 2 rows with a value of the target",
    ),
    "one row": (pa.table({"x": [1.0], "y": [2.0]}), EPOCHS, "/dataset", "The table has 1 row with"),
    "one label": (table(9, y=["a"] * 9), {}, "/target", "only one value"),
    "more folds than rows": (
        table(3),
        {**EPOCHS, "ensemble": {"members": 3, "validation": "folds"}},
        "/ensemble/members",
        "3 folds need more than 2 rows",
    ),
    "one group": (table(9, g=["A"] * 9), {"split": {"method": "group", "by": "g"}}, "/split/by", "1 group;"),
    "weights of zero": (
        table(9, w=[0.0] * 9),
        {"network": NETWORK, "training": {"sample_weight": "w"}},
        "/training/sample_weight",
        "is 0",
    ),
    "weights of no label": (
        table(9),
        {"network": NETWORK, "training": {"class_weight": {"a": 1, "q": 2}}},
        "/training/class_weight/q",
        "no label 'q'",
    ),
    "beyond single precision": (
        pa.table({"x": [1.0, 2.0, 3.0], "y": [1e100, 2e100, 3e100]}),
        {},
        "/target",
        "from 1e+100 to 3e+100",
    ),
    "nothing is left": (table(9, x=[float("nan")] * 9).drop_columns("x"), {}, "/features", "No column is left"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_trained_is_refused_before(name: str) -> None:
    data, spec, pointer, detail = CASES[name]
    found = refused(data, **spec)
    assert found[0] == pointer
    assert detail in found[1]


@pytest.mark.parametrize(
    ("rows", "spec"), [(3, {}), (2, EPOCHS), (5, {**EPOCHS, "ensemble": {"members": 4, "validation": "folds"}})]
)
def test_what_can_be_trained_is_not(rows: int, spec: dict[str, Any]) -> None:
    resolve(parse({"dataset": "data", "target": "y", **spec}), facts_of(table(rows)))
