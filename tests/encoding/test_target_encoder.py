"""The target encoder: labels and numbers in the form that losses need, predictions in the target's own units."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from fitserve.errors import BadInput
from fitserve.spec.target import Target
from fitserve.target_encoder import TargetEncoder
from tests.encoding.test_encoder import facts_for


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"name": "yn", "task": "binary", "labels": ["no", "yes"]}, [[1.0], [0.0], [1.0]]),
        ({"name": "c", "task": "multiclass", "labels": ["x", "y"]}, [0, 1, 0]),
        ({"name": "c", "task": "multiclass", "labels": ["x", "y"], "encoding": "one_hot"}, [[1, 0], [0, 1], [1, 0]]),
        ({"name": "i", "task": "regression"}, [[1], [2], [3]]),
        ({"name": "m", "columns": ["b", "yn"], "task": "multilabel", "labels": ["b", "yn"]}, [[1, 1], [0, 0], [0, 1]]),
    ],
)
def test_each_task_has_its_arrays(target: dict[str, Any], expected: Any) -> None:
    table = pa.table({"yn": ["yes", "no", "yes"], "c": ["x", "y", "x"], "i": [1, 2, 3], "b": [True, False, False]})
    facts = facts_for(table)
    fitted = TargetEncoder.fit([Target.model_validate(target)], table, facts)
    assert TargetEncoder.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert fitted.encode(table)[target["name"]].tolist() == expected


def test_predictions_of_a_standardised_target_are_unscaled() -> None:
    table = pa.table({"i": [10, 20, 30]})
    fitted = TargetEncoder.fit(
        [Target.model_validate({"name": "i", "task": "regression", "standardize": True})], table, facts_for(table)
    )
    encoded = fitted.encode(table)["i"]
    assert encoded.mean() == pytest.approx(0, abs=1e-6)
    assert fitted.targets[0].inverse(encoded).ravel() == pytest.approx([10, 20, 30])


def test_rows_without_a_target_are_named() -> None:
    table = pa.table({"c": ["x", None, "z"]})
    target = Target.model_validate({"name": "c", "task": "multiclass", "labels": ["x", "y"]})
    with pytest.raises(BadInput) as caught:
        TargetEncoder.fit([target], table, facts_for(table)).encode(table)
    assert [(p.row, p.received) for p in caught.value.problems] == [(2, None), (3, "z")]
