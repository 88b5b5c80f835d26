"""The facts of a small table, specs over it, and the schema of specs as a validator."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema_rs

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.schema import json_schema
from fitserve.spec.spec import parse

WIDTH = 12  # dense features


@cache
def schema() -> jsonschema_rs.Validator:
    """Return the schema's validator, which takes most of a second to make: when a test asks, not in every process."""
    return jsonschema_rs.validator_for(json_schema())


def facts(rows: int = 400) -> DatasetFacts:
    """Return facts of twelve numbers, a text column, and a target of each kind."""

    def numeric(name: str, low: float = -2.0, high: float = 2.0) -> ColumnFacts:
        return ColumnFacts(
            name=name, kind="numeric", storage="float64", rows=rows, distinct=rows, min=low, max=high, mean=0.0, std=1.0
        )

    def labelled(name: str, labels: tuple[str, ...]) -> ColumnFacts:
        return ColumnFacts(
            name=name, kind="categorical", storage="string", rows=rows, distinct=len(labels), labels=labels
        )

    return DatasetFacts(
        name="table",
        version=1,
        sha256="0" * 64,
        rows=rows,
        columns=(
            *(numeric(f"x{index}") for index in range(WIDTH)),
            ColumnFacts(name="words", kind="text", storage="string", rows=rows, distinct=rows, max_tokens=6),
            labelled("yes", ("no", "yes")),
            labelled("colour", ("blue", "green", "red")),
            ColumnFacts(name="tag_a", kind="boolean", storage="bool", rows=rows, distinct=2, labels=("false", "true")),
            ColumnFacts(name="tag_b", kind="boolean", storage="bool", rows=rows, distinct=2, labels=("false", "true")),
            numeric("price"),
            numeric("count", 0.0, 9.0),
        ),
    )


FEATURES = [{f"x{index}": "standardize"} for index in range(WIDTH)]


def resolved(network: Any = (), target: Any = "price", features: Any = None, **training: Any) -> Resolved:
    """Resolve a spec over the table. Raises SpecRefused."""
    body: dict[str, Any] = {"dataset": "table", "target": target, "network": network, "training": training}
    if "task" in training:
        body["task"] = training.pop("task")
    return resolve(parse({**body, "features": features or FEATURES}), facts())
