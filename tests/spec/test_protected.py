"""Protected columns of a spec: what has groups to compare is accepted, the rest is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.spec.resolve import resolve
from fitserve.spec.schema import json_schema
from fitserve.spec.spec import SpecRefused, parse


def _column(name: str, kind: Any, storage: Any, distinct: int, **more: Any) -> ColumnFacts:
    return ColumnFacts(name=name, kind=kind, storage=storage, rows=900, distinct=distinct, **more)


FACTS = DatasetFacts(
    name="people",
    version=1,
    sha256="0" * 64,
    rows=900,
    columns=(
        _column("x", "numeric", "float64", 800, min=0, max=1, mean=0.5, std=0.3),
        _column("age", "numeric", "int64", 70, min=18, max=88, mean=40, std=9),
        _column("sex", "ignored", "string", 2, labels=("f", "m"), label_counts=(400, 500)),
        _column("name", "ignored", "string", 900),
        _column("same", "ignored", "string", 1, labels=("a",), label_counts=(900,)),
        _column("y", "boolean", "bool", 2, labels=("false", "true"), label_counts=(500, 400)),
    ),
)


def _resolve(protected: Any, **more: Any) -> Any:
    body = {"dataset": "people", "target": "y", "features": ["x"], "protected": protected, **more}
    return resolve(parse(body), FACTS).spec


@given(st.lists(st.sampled_from(["sex", "age", "x"]), unique=True, max_size=3))
@settings(max_examples=20, deadline=None)
def test_protected_columns_need_be_no_features_and_resolve_to_themselves(columns: list[str]) -> None:
    spec = _resolve(columns)
    assert spec.protected == tuple(columns)
    assert resolve(parse(spec.to_json()), FACTS).spec == spec
    assert {feature.column for feature in spec.features} == {"x"}


@pytest.mark.parametrize(("written", "meant"), [("sex", ("sex",)), (None, ()), (" sex ", ("sex",)), ([], ())])
def test_one_column_needs_no_list(written: Any, meant: tuple[str, ...]) -> None:
    assert _resolve(written).protected == meant


@pytest.mark.parametrize(
    ("protected", "more", "pointer"),
    [
        (["sex", "sx"], {}, "/protected/1"),
        ("y", {}, "/protected"),
        (["sex", "sex"], {}, "/protected/1"),
        ("name", {}, "/protected"),
        ("same", {}, "/protected"),
        ("sex", {"split": {"validation": 0, "test": 0}, "ensemble": False}, "/protected"),
        ([1], {}, "/protected/0"),
        ({"sex": True}, {}, "/protected"),
        (["sex"] * 21, {}, "/protected"),
    ],
)
def test_what_has_no_groups_to_compare_is_refused(protected: Any, more: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecRefused) as refused:
        _resolve(protected, **more)
    assert refused.value.problems[0].pointer == pointer
    assert refused.value.problems[0].detail


def test_the_schema_takes_one_column_or_a_list() -> None:
    options = json_schema()["properties"]["protected"]["anyOf"]
    assert {option.get("type") for option in options} == {"string", "array", "null"}
