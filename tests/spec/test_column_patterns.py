"""Features by pattern resolve to the columns that they match."""

from __future__ import annotations

from typing import Any

import pytest

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.spec.as_written import rewrite
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse

NUMBER = {"kind": "numeric", "storage": "float64", "rows": 90, "distinct": 80, "min": 0.0, "max": 9.0, "mean": 4.0}
NAMES = ["p0", "p1", "p2", "p10", "age", "-odd", "a*b", "label"]
COLUMNS = [ColumnFacts(name=name, std=2.0, **NUMBER) for name in NAMES]
IGNORED = ColumnFacts(name="p_id", kind="ignored", storage="string", rows=90, distinct=90)
FACTS = DatasetFacts(name="d", version=1, sha256="0" * 64, rows=90, columns=(*COLUMNS, IGNORED))


def spec_of(features: Any, **more: Any) -> dict[str, Any]:
    return {"dataset": "d", "target": "label", "network": [{"Dense": 2}], "features": features, **more}


def columns(features: Any) -> list[str]:
    found = resolve(parse(spec_of(features)), FACTS).spec
    assert resolve(found, FACTS).spec == found, "a resolved spec resolves to itself"
    return [feature.column for feature in found.features or ()]


@pytest.mark.parametrize(
    ("features", "found"),
    [
        (["p*"], ["p0", "p1", "p2", "p10"]),
        (["p?", "age"], ["p0", "p1", "p2", "age"]),
        (["p*", "-p1*"], ["p0", "p2"]),
        (["-p*"], ["age", "-odd", "a*b"]),
        (["-age", "-p?"], ["p10", "-odd", "a*b"]),
        (["*", {"age": "robust"}], ["p0", "p1", "p2", "p10", "-odd", "a*b", "age"]),
        ({"p*": "robust"}, ["p0", "p1", "p2", "p10"]),
        (["-odd", "a*b"], ["-odd", "a*b"]),  # columns that are called so
        (["p*", "p1*"], ["p0", "p1", "p2", "p10"]),
    ],
)
def test_a_pattern_stands_for_its_columns(features: Any, found: list[str]) -> None:
    assert columns(features) == found


@pytest.mark.parametrize(
    ("features", "pointer", "said"),
    [
        (["age", "q*"], "/features/1", "matches 'q*'"),
        (["*", "-q"], "/features/1", "no column 'q'"),
        (["*", {"-age": "robust"}], "/features/1", "no encoding"),
        (["p*", "age", "agee"], "/features/2", "agee"),
        (["label*"], "/features", "at least one feature"),
        (["-*"], "/features", "at least one feature"),
        (["*"] * 101, "/features", "101 patterns"),
    ],
)
def test_a_pattern_that_stands_for_nothing_is_refused(features: Any, pointer: str, said: str) -> None:
    with pytest.raises(SpecRefused) as refused:
        columns(features)
    (problem,) = refused.value.problems
    assert problem.pointer == pointer
    assert said in problem.detail


def test_a_pattern_stays_where_something_else_is_changed() -> None:
    written = spec_of(["p*"])

    def resolved(spec: Any) -> dict[str, Any]:
        return resolve(parse(spec), FACTS).spec.to_json()

    changed = resolved(written)
    changed["training"]["epochs"] = 7
    assert rewrite(written, changed, resolved)["features"] == ["p*"]
