"""Every generated spec is refused with pointers, or resolves to a fixed point that the schema allows."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fitserve.errors import FitserveError
from fitserve.spec.decode import parse_bytes
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse
from tests.spec.strategies import specs
from tests.spec.table import facts, schema

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def at(pointer: str, body: Any) -> Any:
    """Return what a JSON Pointer leads to. Raises where there is nothing."""
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        body = body[int(key)] if isinstance(body, list) else body[key]
    return body


@QUICK
@given(specs())
def test_a_spec_is_refused_with_pointers_or_resolves_to_a_fixed_point(body: dict[str, Any]) -> None:
    try:
        resolved = resolve(parse(body), facts())
    except SpecRefused as refused:
        event("refused")
        for problem in refused.problems:
            assert problem.detail
            assert problem.pointer is not None
            top = problem.pointer.split("/")[1:2]
            assert not top or top[0] in ("target", "features", "network", "training", "split", "task"), problem
            if problem.pointer.startswith("/network/"):
                at("/".join(problem.pointer.split("/")[:3]), body)
        return
    event("resolved")
    written = json.loads(json.dumps(resolved.spec.to_json(), allow_nan=False))
    again = resolve(parse(written), facts())
    assert again.spec == resolved.spec
    assert again.spec.to_json() == written
    assert again.estimates == resolved.estimates
    assert schema().is_valid(written)
    assert schema().is_valid(body), list(schema().iter_errors(body))


@QUICK
@given(specs())
def test_what_parses_is_what_the_schema_allows(body: dict[str, Any]) -> None:
    try:
        parse(body)
    except SpecRefused:
        return
    assert schema().is_valid(body), [error.message for error in schema().iter_errors(body)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(
    st.dictionaries(
        st.sampled_from(["dataset", "target", "task", "features", "split", "network", "training", "model"]), JSON
    )
)
def test_any_json_is_a_spec_or_refused(body: dict[str, Any]) -> None:
    try:
        resolve(parse({"dataset": "table", "target": "price", **body}), facts())
    except SpecRefused as refused:
        assert refused.problems
        json.dumps(refused.as_problem(), allow_nan=False)


@QUICK
@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"#%@ \n\tab1.e", max_size=80).map(str.encode))
def test_any_bytes_are_a_spec_or_refused(data: bytes) -> None:
    for kind in ("application/json", "application/yaml"):
        try:
            parse_bytes(data, kind)
        except FitserveError as refused:
            assert refused.status in (400, 422)
