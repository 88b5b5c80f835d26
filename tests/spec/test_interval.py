"""`interval` and `coverage_by` in a spec: what is read, and what is refused before training."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse
from fitserve.validation import problems_from
from fitserve.wire.models import PredictionRequest


def _facts(rows: int) -> DatasetFacts:
    def column(name: str, kind: str, storage: str, distinct: int, listed: bool = True) -> ColumnFacts:
        labels = tuple(str(at) for at in range(distinct)) if listed else None
        ends = {"min": 0.0, "max": 9.0, "mean": 4.0, "std": 2.0} if storage in ("int64", "float64") else {}
        facts = {"name": name, "kind": kind, "storage": storage, "rows": rows, "distinct": distinct, "labels": labels}
        return ColumnFacts.model_validate({**facts, **ends, "max_tokens": 5 if kind == "text" else None})

    columns = (
        column("y", "numeric", "float64", rows, False),
        column("label", "categorical", "string", 3),
        column("region", "categorical", "string", 4),
        column("rank", "numeric", "int64", 4),
        column("income", "numeric", "float64", rows, False),
        column("zip", "categorical", "string", 1500, False),
        column("note", "text", "string", rows, False),
    )
    return DatasetFacts(name="data", version=1, sha256="0" * 64, rows=rows, columns=columns)


def _spec(**more: Any) -> dict[str, Any]:
    features = ["region", "rank", "income", {"column": "zip", "encoding": "hashing"}, "note"]
    return {
        "dataset": "data",
        "target": "y",
        "features": features,
        "split": {"validation": 0.2},
        "ensemble": None,
    } | more


@pytest.mark.parametrize("asked", [0.9, [0.9, 0.5], {"level": 0.9}, {"level": [0.8], "adaptive": True}])
@pytest.mark.parametrize("group", ["region", "rank"])
def test_what_is_asked_is_written_out_and_resolves_to_itself(asked: Any, group: str) -> None:
    spec = resolve(parse(_spec(interval=asked, coverage_by=f" {group} ")), _facts(1000)).spec
    assert spec.coverage_by == group
    assert spec.interval is not None
    again = resolve(parse(spec.to_json()), _facts(1000)).spec
    assert again == spec


@pytest.mark.parametrize(
    ("more", "rows", "pointer", "says"),
    [
        ({"interval": 1}, 1000, "/interval", "between 0 and 1"),
        ({"interval": 0}, 1000, "/interval", "between 0 and 1"),
        ({"interval": 90}, 1000, "/interval", "between 0 and 1"),
        ({"interval": [0.9, 1.5]}, 1000, "/interval/1", "between 0 and 1"),
        ({"interval": [0.9, 0.9]}, 1000, "/interval", "twice"),
        ({"interval": []}, 1000, "/interval", "1 to 10 levels"),
        ({"interval": True}, 1000, "/interval", "number"),
        ({"interval": "high"}, 1000, "/interval", "number"),
        ({"interval": {"level": 0.9, "adaptive": {"gamma": 0}}}, 1000, "/interval/adaptive/gamma", "above 0"),
        ({"interval": 0.95}, 100, "/interval", "The level 0.95 needs 39 held-out rows; the split holds out 20."),
        ({"interval": [0.5, 0.99]}, 500, "/interval/level/1", "needs 199 held-out rows"),
        ({"target": "label", "interval": 0.95}, 50, "/interval", "needs 19 held-out rows; the split holds out 10"),
        ({"interval": 0.9, "split": {"validation": 0, "test": 0.2}}, 1000, "/interval", "holds none out"),
        (
            {"target": "label", "decision": {"maximize": "f1", "abstain": {"prediction_set": 0.999}}},
            1000,
            "/decision/abstain/prediction_set",
            "The level 0.999 needs 999 held-out rows; the split holds out 200.",
        ),
        ({"coverage_by": "regoin"}, 1000, "/coverage_by", "region"),
        ({"coverage_by": "income"}, 1000, "/coverage_by", "1000 distinct numbers"),
        ({"coverage_by": "note"}, 1000, "/coverage_by", "is text"),
        ({"coverage_by": "zip"}, 2000, "/coverage_by", "1500 labels"),
        ({"coverage_by": "y"}, 1000, "/coverage_by", "is no feature"),
        ({"coverage_by": "label"}, 1000, "/coverage_by", "is no feature"),
        ({"coverage_by": "region", "split": {"validation": 0, "test": 0.2}}, 1000, "/coverage_by", "holds none out"),
        ({"coverage_by": 3}, 1000, "/coverage_by", ""),
    ],
)
def test_what_cannot_be_promised_is_refused(more: dict[str, Any], rows: int, pointer: str, says: str) -> None:
    with pytest.raises(SpecRefused) as refused:
        resolve(parse(_spec(**more)), _facts(rows))
    (problem,) = [one for one in refused.value.problems if str(one.pointer).startswith(pointer)]
    assert says in f"{problem.detail} {problem.expected} {problem.fix}"


def test_a_set_that_whole_groups_may_promise_is_left_to_training() -> None:
    decision = {"abstain": {"prediction_set": 0.999}}
    split = {"method": "group", "by": "region", "validation": 0.2}
    assert resolve(parse(_spec(target="label", decision=decision, split=split)), _facts(1000)).spec.decision


@pytest.mark.parametrize("level", [2, 0, "high", True, [0.9]])
def test_the_level_of_a_batch_prediction_is_refused_in_the_same_words(level: Any) -> None:
    body = {"dataset": "data", "interval": level}
    with pytest.raises(ValidationError) as refused:
        PredictionRequest.model_validate(body)
    (problem,) = problems_from(refused.value.errors(), PredictionRequest, body)
    assert (problem.pointer, "between 0 and 1" in problem.detail) == ("/interval", True)
    for allowed in (0.9, False, None):
        assert PredictionRequest.model_validate({**body, "interval": allowed}).interval == allowed
