"""Large bodies are divided as JSON is, read as small ones are, and refused before what is in them takes memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.errors import FitserveError, Malformed, TooLarge
from services.predict.protocols import json_parts
from services.predict.protocols.formats import read_value
from services.predict.protocols.oip.inference import read_infer
from services.predict.protocols.tfserving.predict_body import read_predict
from services.predict.protocols.tfserving.rest import read_examples
from services.predict.serving.protocol_request import LARGE_BODY_BYTES
from tests.predict.test_row_bodies import MODELS

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.text('[]{},:\\"', max_size=4)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=30,
)


def depth(value: Any) -> int:
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return max(map(depth, inner), default=0) + isinstance(value, list | dict)


def small_parts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(json_parts, "PART_BYTES", 12)
    patch.setattr(json_parts, "MANY_VALUES", 0)


@settings(max_examples=300, deadline=None)
@given(value=st.dictionaries(st.text(max_size=3), VALUES, max_size=4), indent=st.sampled_from([None, 1]), ascii=...)
def test_any_object_is_read_in_parts_as_by_json(value: Any, indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch)
        try:
            members = json_parts.find_members(text.encode("utf-8", "surrogatepass"))
        except Malformed as error:
            assert "nests too deep" in error.detail
            assert depth(value) > json_parts.QUICK_DEPTH
            return
        assert members is not None
        for name, member in members.items():
            if isinstance(value[name], list | dict):
                assert member.count == len(value[name])
        if "\\ud" not in text:  # half a character is refused
            assert repr({name: read_value(member) for name, member in members.items()}) == repr(json.loads(text))


@settings(max_examples=300, deadline=None)
@given(value=st.dictionaries(st.text(max_size=3), VALUES, max_size=3), data=st.data())
def test_what_is_no_json_is_refused(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    start = data.draw(st.integers(0, len(text)))
    end = min(len(text), start + data.draw(st.integers(0, 2)))
    damage = data.draw(st.sampled_from(["", ",", "]", "}", ":", '"', "NaN", " ", "\\", "[", "{", "x", "\x00"]))
    damaged = text[:start] + damage + text[end:]
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch)
        try:
            members = json_parts.find_members(damaged.encode())
            read = None if members is None else {name: read_value(member) for name, member in members.items()}
        except Malformed as error:
            if "\\ud" not in damaged and "deep" not in error.detail:  # half a character, which json reads
                with pytest.raises(ValueError):
                    json.loads(damaged)
        else:
            assert read is None or repr(read) == repr(json.loads(damaged))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":["long text", ,1]}',
        b'{"a":["long text", ]}',
        b'{"a":[ ,"long text"]}',
        b'{"a":[1,2}',
        b'{"a":1}}',
        b'{"a":1 2}',
    ],
)
def test_lists_that_are_nearly_json_are_refused(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    with pytest.raises(Malformed):
        read_value((json_parts.find_members(body) or {})["a"])


TENSOR = {"name": "gre", "shape": [3], "datatype": "FP64", "data": [1, None, 2.5]}
CITY = {"name": "city", "shape": [3], "datatype": "BYTES", "data": ["Rom", "Bern", None]}


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [TENSOR, CITY], "id": "7", "outputs": [{"name": "admit", "parameters": {"classification": 2}}]},
        {"inputs": [{**TENSOR, "data": [[1], [2], [3]], "shape": [3, 1]}], "parameters": {"interval": 0.9}},
        {"inputs": [{**TENSOR, "data": [1, float("nan"), 2]}]},
        {"inputs": [{**TENSOR, "data": None}]},
        {"inputs": [{**TENSOR, "data": 5}]},
        {"inputs": [{**TENSOR, "shape": [4]}]},
        {"inputs": [{**TENSOR, "shape": [2]}]},
        {"inputs": [{**TENSOR, "shape": "3"}]},
        {"inputs": [{**TENSOR, "name": 3}]},
        {"inputs": [TENSOR, {"name": "gpa"}]},
        {"inputs": [TENSOR], "outputs": [{"name": "admit"}] * 2},
        {"inputs": [TENSOR], "outputs": [{"name": "other"}]},
        {"inputs": [TENSOR], "outputs": 5},
        {"inputs": [TENSOR], "parameters": {"content_type": "other"}},
        {"inputs": [TENSOR], "id": 5},
        {"inputs": [5]},
        {"inputs": []},
        {"inputs": {}},
        {"id": "7"},
        [],
    ],
)
def test_large_inference_requests_are_read_as_small_ones(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(text: bytes) -> Any:
        try:
            read = read_infer(MODELS[0], text, None)
        except FitserveError as error:
            return type(error)
        return repr(read.rows.values), read.id, read.outputs, read.parameters

    text = json.dumps(body).encode()
    small = outcome(text)
    small_parts(monkeypatch)
    assert outcome(text + b" " * LARGE_BODY_BYTES) == small


def limit(rows: int) -> None:
    if rows > 100_000:
        raise TooLarge("The request has too many rows.")


MILLION = 1_000_000
ROW = b'{"gre":640,"gpa":3.2,"rank":1,"city":"Rom"}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances":[' + b"1," * MILLION + b"1]}",
        b'{"instances":[' + b"[]," * MILLION + b"1]}",
        b'{"inputs":[' + b"[]," * MILLION + b"1]}",
        b'{"inputs":{"gre":[' + b"[]," * MILLION + b"1]}}",
        b'{"instances":[[' + b"1," * MILLION + b"1]]}",
        b'{"instances":[{' + b",".join(b'"k%d":1' % at for at in range(MILLION // 2)) + b"}]}",
        b'{"instances":' + b"[" * MILLION + b"}",
        b'{"instances":[],"other":[' + b"[]," * MILLION + b"1]}",
        b'{"examples":[' + b"{}," * MILLION + b"1]}",
        b'{"examples":[{}],"context":{' + b",".join(b'"k%d":1' % at for at in range(MILLION // 2)) + b"}}",
        b'{"inputs":[' + b"{}," * MILLION + b"1]}",
        b'{"inputs":[],"outputs":[' + b"{}," * MILLION + b"1]}",
        b'{"inputs":[],"parameters":{' + b",".join(b'"k%d":1' % at for at in range(MILLION // 2)) + b"}}",
        b'{"inputs":[{"name":"gre","datatype":"FP64","shape":[9],"data":[' + b"[]," * MILLION + b"1]}]}",
        b'{"inputs":[{"name":"gre","datatype":"FP64","shape":[1000001],"data":[' + b"1," * MILLION + b"1]}]}",
    ],
    ids=lambda body: f"{body[:20]!r}, {len(body)}",
)
def test_millions_of_values_are_refused_before_they_take_memory(body: bytes) -> None:
    """A JSON reader makes 60 to 100 bytes of each."""
    read = [lambda: read_predict(MODELS[0], body, limit), lambda: read_examples(MODELS[0], body, limit)]
    read.append(lambda: read_infer(MODELS[0], body, None, limit))
    for one in read:
        tracemalloc.start()
        with pytest.raises((Malformed, TooLarge)):
            one()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 20 * MILLION


def test_a_context_of_unknown_columns_is_not_copied_to_each_row() -> None:
    context = {f"k{at}": 1 for at in range(5000)}
    body = json.dumps({"context": context, "examples": [{}] * 40_000}).encode()
    assert len(body) < LARGE_BODY_BYTES
    with pytest.raises(Malformed, match="context has an unknown column 'k0'"):
        read_examples(MODELS[0], body, limit)


@pytest.mark.parametrize("end", ["", "]", " ", "]] 5", "}"])
def test_a_body_that_is_cut_short_is_not_called_too_deep(end: str) -> None:
    for body in ('{"instances":[[1,2],[3,4' + end, '{"instances":[{"gre":1},{"gre":2' + end):
        with pytest.raises(Malformed, match="a mistake, or its end, at byte"):
            json_parts.find_members(body.encode())


def test_members_of_one_name_count_as_others() -> None:
    with pytest.raises(Malformed, match="too many members"):
        json_parts.find_members(b"{" + b'"instances":0,' * json_parts.MAX_MEMBERS + b'"instances":0}')
