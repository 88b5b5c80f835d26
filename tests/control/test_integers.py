"""Every integer that a client sends has a bound that the databases' integers hold: none can become a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.control.test_access_matrix import SPECIAL_PARAMETERS as SPECIAL
from tests.control.test_access_matrix import UNAVAILABLE, Scenario, document

pytestmark = pytest.mark.xdist_group("access")
LARGEST = 2**63 - 1  # of ids; versions, epochs and trials have 32 bits


def integers(schema: Any, where: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield where a schema has an integer without a bound."""
    if isinstance(schema, list):
        for item in schema:
            yield from integers(item, where, seen)
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        target = document()["components"]["schemas"][reference.rpartition("/")[2]]
        yield from integers(target, f"{where} {reference.rpartition('/')[2]}", seen | {reference})
    if schema.get("type") == "integer" and not {"const", "enum"} & schema.keys():
        largest = schema.get("maximum", schema.get("exclusiveMaximum"))
        if largest is None or largest > LARGEST:
            yield where
    for key, item in schema.items():
        yield from integers(item, f"{where}/{key}", seen)


def test_every_integer_of_a_request_is_bounded() -> None:
    unbounded: list[str] = []
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                unbounded += integers(parameter["schema"], f"{method} {path} {parameter['name']}")
            unbounded += integers(operation.get("requestBody", {}), f"{method} {path}")
    predictions = [where for where in unbounded if " /v1/" in where or " /v2/" in where]
    assert sorted(set(unbounded) - set(predictions)) == []


def test_a_text_that_is_read_as_a_number_is_bounded_too(scenario: Scenario) -> None:
    """The OpenAPI document types cursors and headers as strings, so their bounds are not in it."""
    number = "0" * 20 + "9" * 30  # its first digits are a small number
    key = {"Authorization": f"Bearer {scenario.token('ada', 'admin')}"}
    failed = []
    for path, operations in document()["paths"].items():
        for parameter in operations.get("get", {}).get("parameters", []):
            name, place = parameter["name"], parameter["in"]
            url = scenario.url(path, {name: number} if place == "path" else SPECIAL.get(f"GET {path}", {}))
            if name == "accept":
                continue
            headers = {**key, name: number, "Accept": "text/event-stream"} if place == "header" else key
            answer = scenario.client.get(url, headers=headers, params={name: number} if place == "query" else {})
            if answer.status_code >= 500 and f"GET {path}" not in UNAVAILABLE:
                failed.append((path, name, answer.status_code))
    assert not failed
