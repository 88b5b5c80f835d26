"""The published JSON Schema allows what `parse` reads."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fitserve.spec.schema import DIALECT, FAMILIES, json_schema, reference
from services.control.openapi import router
from tests.spec.table import schema

BODY = {"dataset": "table", "target": "price"}


def test_the_schema_is_published_for_editors() -> None:
    app = FastAPI()
    app.include_router(router, prefix="/api/v1")
    answer = TestClient(app).get("/api/v1/schemas/spec")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json() == json_schema()
    assert answer.json()["$schema"] == DIALECT


def test_the_schema_is_valid_and_its_references_resolve() -> None:
    jsonschema_rs.meta.validate(json_schema())
    definitions = json_schema()["$defs"]
    pending: list[Any] = [json_schema()]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/$defs/") in definitions
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def test_every_class_has_a_definition() -> None:
    definitions = json_schema()["$defs"]
    for family in FAMILIES:
        for cls in family.classes.values():
            assert set(definitions[reference(family, cls)]["properties"]) == set(cls.model_fields)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"$schema": "https://example.org/api/v1/schemas/spec"},
        {"target": ["a", {"column": "b", "task": "binary"}]},
        {"features": ["a", {"b": "one_hot"}, {"c": {"sequence": {"length": 5}}}]},
        {"features": {"a": "standardize", "b": ["robust", {"piecewise_linear": {"bins": 4}}]}},
        {"features": [{"column": "a", "encoding": "robust"}, {"column": "b", "encoding": ["robust", "quantile"]}]},
        {"split": {"time": {"by": "day"}}},
        {"network": ["Flatten", {"Dense": 3}, {"Dense": {"units": 3}, "name": "a", "inputs": ["x"], "output": True}]},
        {"network": [{"class_name": "Dense", "config": {"units": 3}}]},
        {"network": {"class_name": "Sequential", "config": {"layers": []}}},
        {"training": {"optimizer": "adam", "loss": {"a": "mse"}, "metrics": ["accuracy", {"AUC": {}}]}},
        {"training": {"early_stopping": True, "warmup": 5, "class_weight": {"a": 1}}},
    ],
)
def test_the_schema_allows_what_parse_reads(changes: Any) -> None:
    assert [error.message for error in schema().iter_errors({**BODY, **changes})] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "../etc/passwd"},
        {"dataset": None},
        {"network": [{"Lambda": "x"}]},
        {"network": [{"Dense": {"unit": 3}}]},
        {"network": [{"Dense": {"units": 0}}]},
        {"network": [{"Dropout": 1}]},
        {"training": {"epoch": 1}},
        {"training": {"epochs": 0}},
        {"training": {"optimizer": {"Adam": {"beta": 1}}}},
        {"training": {"loss": {"Huber": {"delta": -1}}}},
        {"training": {"batch_size": "whole"}},
        {"model": "../x"},
    ],
)
def test_the_schema_refuses_what_parse_refuses(changes: Any) -> None:
    assert not schema().is_valid({**BODY, **changes})
