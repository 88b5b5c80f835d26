"""schemathesis against both protocols: hundreds of requests that they allow, or forbid, or all but allow.

Every answer must have a status, a content type and a body that the specification knows; what it forbids is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from tests.predict.toy_registry import NUMBERS, RunningService

FOLDER = Path(__file__).parent / "specifications"
OIP = schemathesis.openapi.from_path(FOLDER / "open_inference_rest.yaml")
TFS = schemathesis.openapi.from_path(FOLDER / "tensorflow_serving_rest.yaml")
OPERATIONS = {f"{one.ok().method} {one.ok().path}": one.ok() for s in (OIP, TFS) for one in s.get_all_operations()}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

COLUMNS = {
    "m1": {name: st.floats(-50, 50) for name in NUMBERS},
    "adm": {
        "gre": st.integers(300, 900),
        "gpa": st.floats(2, 5),
        "rank": st.sampled_from([1, 2, 3, 4, 9]),
        "city": st.sampled_from(["Rom", "Bern", "Ürzig", ""]),
    },
}
COLUMNS["three"] = COLUMNS["adm"]
TYPES = {"gre": "INT64", "rank": "INT32", "city": "BYTES"}
VERSIONS = st.sampled_from([1, 1, 2, 7])
ODD = st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.integers(), st.floats(), st.just([]), st.just({}))


@st.composite
def parameters(draw: Any) -> dict[str, Any]:
    return {
        "model": draw(st.sampled_from(["m1", "adm", "three", "none"])),
        "version": draw(VERSIONS),
        "label": "champion",
    }


@st.composite
def plausible(draw: Any, path: str, model: str) -> Any:
    """Return a body that the model accepts; in one of four, a value is replaced."""
    columns = COLUMNS.get(model, COLUMNS["m1"])
    rows = [{name: draw(values) for name, values in columns.items()} for _ in range(draw(st.integers(1, 3)))]
    if draw(st.integers(0, 3)) == 0:
        rows[0][draw(st.sampled_from(sorted(columns)))] = draw(ODD)
    by_column = {name: [row[name] for row in rows] for name in columns}
    if path.endswith("infer"):
        shape = [len(rows), 1] if draw(st.booleans()) else [len(rows)]
        inputs = [
            {"name": name, "shape": shape, "datatype": TYPES.get(name, "FP64"), "data": values}
            for name, values in by_column.items()
        ]
        return {"id": draw(st.text(max_size=4)), "inputs": inputs}
    if not path.endswith("predict"):
        return {"examples": rows}
    forms = [{"instances": rows}, {"instances": [list(row.values()) for row in rows]}, {"inputs": by_column}]
    return draw(st.sampled_from(forms))


def limited(examples: int) -> Any:
    unhealthy = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=unhealthy, database=None, derandomize=True
    )


def known(operation: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that the path has."""
    return {name: value for name, value in values.items() if f"{{{name}}}" in operation.path}


# A few of each operation every time, many in the long form.
HOW_OFTEN = pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.long)], ids=["few", "many"])


@HOW_OFTEN
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_what_the_specification_allows(served: RunningService, name: str, times: int) -> None:
    operation = OPERATIONS[name]

    @limited(times * (7 if operation.method == "post" else 3))
    @given(case=operation.as_strategy(), path_parameters=st.one_of(st.none(), parameters()))
    def ask(case: Any, path_parameters: dict[str, Any] | None) -> None:
        if path_parameters is not None:
            case.path_parameters = known(operation, path_parameters)
        case.call_and_validate(base_url=served.url, headers=served.headers, checks=CHECKS)

    ask()


POSTS = [name for name in OPERATIONS if name.startswith("post")]


@HOW_OFTEN
@pytest.mark.parametrize("name", POSTS)
def test_what_the_specification_forbids(served: RunningService, name: str, times: int) -> None:
    operation = OPERATIONS[name]
    real = known(operation, {"model": "adm", "version": 1, "label": "champion"})

    @limited(times * 5)
    @given(case=operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=real))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=served.url, headers=served.headers, checks=[*CHECKS, negative_data_rejection])

    ask()


@HOW_OFTEN
@pytest.mark.parametrize("name", POSTS)
def test_bodies_that_models_understand(served: RunningService, name: str, times: int) -> None:
    operation = OPERATIONS[name]
    answered: list[int] = []

    @limited(times * 35)
    @given(data=st.data())
    def ask(data: Any) -> None:
        values = data.draw(parameters())
        body = data.draw(plausible(operation.path, values["model"]))
        case = operation.Case(path_parameters=known(operation, values), body=body, media_type="application/json")
        answer = case.call_and_validate(base_url=served.url, headers=served.headers, checks=CHECKS)
        answered.append(answer.status_code)

    ask()
    if "labels" not in name and "regress" not in name:  # these models have no such label, and one such output
        assert answered.count(200) >= 5
