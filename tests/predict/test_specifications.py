"""schemathesis against both protocols: hundreds of requests that they allow, or forbid, or all but allow.

Every answer must have a status, a content type and a body that the specification knows; what it forbids is refused.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.control.openapi import METHODS
from tests.predict.toy_registry import NUMBERS, RunningService

FOLDER = Path(__file__).parent / "specifications"
SPECIFICATIONS = (FOLDER / "open_inference_rest.yaml", FOLDER / "tensorflow_serving_rest.yaml")
NAMES = [
    f"{method} {path}"
    for specification in SPECIFICATIONS
    for path, item in yaml.safe_load(specification.read_text())["paths"].items()
    for method in item
    if method in METHODS
]

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
LARGEST = 1e30  # what float32 cannot hold is answered with NaN, which neither this client nor the schema knows
NUMBER = st.one_of(st.integers(int(-LARGEST), int(LARGEST)), st.floats(-LARGEST, LARGEST))
ODD = st.one_of(st.none(), st.booleans(), st.text(max_size=5), NUMBER, st.just([]), st.just({}))


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


@cache
def operations() -> dict[str, Any]:
    """Read both specifications with schemathesis, half a second that only the process of these tests takes."""
    from schemathesis import openapi

    every = (one.ok() for path in SPECIFICATIONS for one in openapi.from_path(path).get_all_operations())
    by_name = {f"{one.method} {one.path}": one for one in every}
    assert list(by_name) == NAMES
    return by_name


def validate(case: Any, served: RunningService, *, forbidden: bool = False) -> Any:
    """Send a case, and check the answer by the specification. Return the answer."""
    from schemathesis import checks

    by_specification = [
        *(checks.not_a_server_error, checks.status_code_conformance),
        *(checks.content_type_conformance, checks.response_schema_conformance),
        *([checks.negative_data_rejection] if forbidden else []),
    ]
    return case.call_and_validate(base_url=served.url, headers=served.headers, checks=by_specification)


def known(operation: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that the path has."""
    return {name: value for name, value in values.items() if f"{{{name}}}" in operation.path}


# A few of each operation every time, many in the long form.
HOW_OFTEN = pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.long)], ids=["few", "many"])


@HOW_OFTEN
@pytest.mark.parametrize("name", NAMES)
def test_what_the_specification_allows(served: RunningService, name: str, times: int) -> None:
    operation = operations()[name]

    @limited(times * (7 if operation.method == "post" else 3))
    @given(case=operation.as_strategy(), path_parameters=st.one_of(st.none(), parameters()))
    def ask(case: Any, path_parameters: dict[str, Any] | None) -> None:
        if path_parameters is not None:
            case.path_parameters = known(operation, path_parameters)
        validate(case, served)

    ask()


POSTS = [name for name in NAMES if name.startswith("post")]


@HOW_OFTEN
@pytest.mark.parametrize("name", POSTS)
def test_what_the_specification_forbids(served: RunningService, name: str, times: int) -> None:
    from schemathesis import GenerationMode

    operation = operations()[name]
    real = known(operation, {"model": "adm", "version": 1, "label": "champion"})

    @limited(times * 5)
    @given(case=operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=real))
    def ask(case: Any) -> None:
        validate(case, served, forbidden=True)

    ask()


@HOW_OFTEN
@pytest.mark.parametrize("name", POSTS)
def test_bodies_that_models_understand(served: RunningService, name: str, times: int) -> None:
    operation = operations()[name]
    answered: list[int] = []

    @limited(times * 35)
    @given(data=st.data())
    def ask(data: Any) -> None:
        values = data.draw(parameters())
        body = data.draw(plausible(operation.path, values["model"]))
        case = operation.Case(path_parameters=known(operation, values), body=body, media_type="application/json")
        answered.append(validate(case, served).status_code)

    ask()
    if "labels" not in name and "regress" not in name:  # these models have no such label, and one such output
        assert answered.count(200) >= 5
